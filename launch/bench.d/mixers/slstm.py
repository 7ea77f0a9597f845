import torch
from torch import nn
from torch.nn import functional as F

from _cells import HeadsLoop

MIXER = "{ type: slstm, head_count: 8 }"
# exp(-|f|), log, i', f', tanh, sigmoid, and the convolution's sigmoid twice.
FUNCTIONS = 512 * 8


class SLSTM(HeadsLoop):
    def __init__(self, width):
        super().__init__(width, 8, 4, 4)
        self.convolution = nn.Conv1d(width, width, 4, groups=width, padding=3)
        self.into = nn.Parameter(torch.randn(2, 8, width // 8, 2 * width // 8) / 8)
        self.bias = nn.Parameter(torch.zeros(8, 1, 4 * width // 8))
        self.norm = nn.GroupNorm(8, width)

    def pre(self, x):
        batch, length, width = x.shape
        xc = F.silu(self.convolution(x.mT)[..., :length]).mT
        parts = []
        for source, weight in ((xc, self.into[0]), (x, self.into[1])):
            heads = source.reshape(batch * length, 8, -1).transpose(0, 1)
            parts.append(torch.bmm(heads, weight))
        pre = torch.cat(parts, -1) + self.bias
        return pre.unflatten(1, (batch, length)).permute(2, 0, 1, 3).contiguous()

    def step(self, a, states):
        _, c, n, m = states
        i, f, z, o = a.chunk(4, -1)
        kept = F.logsigmoid(f) + m
        m = torch.maximum(i, kept)
        into, keep = torch.exp(i - m), torch.exp(kept - m)
        c, n = keep * c + into * torch.tanh(z), keep * n + into
        return [torch.sigmoid(o) * c / n, c, n, m]

    def forward(self, x):
        return self.norm(super().forward(x).flatten(0, 1)).unflatten(0, x.shape[:2])


FORMS = {"loop over time": SLSTM}
