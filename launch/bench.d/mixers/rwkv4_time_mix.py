import torch
from torch import nn
from torch.nn import functional as F

MIXER = "{ type: rwkv4_time_mix }"
# Two exponentials of the scaled sums, forward and twice in the backward, which does not keep them; a sigmoid.
FUNCTIONS = 512 * 7


class TimeMix(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.key, self.value, self.receptance, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.mixes = nn.Parameter(torch.rand(3, width))
        self.decay, self.first = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def forward(self, x):
        before = F.pad(x[:, :-1], (0, 0, 1, 0))
        k, v, r = (
            linear(torch.lerp(before, x, mix))
            for linear, mix in zip((self.key, self.value, self.receptance), self.mixes))
        w, first = -torch.exp(self.decay), self.first + k
        p = q = torch.zeros_like(k[:, 0])
        o, outputs = torch.full_like(p, -1e38), []
        for key, value, bonus in zip(k.unbind(1), v.unbind(1), first.unbind(1)):
            top = torch.maximum(o, bonus)
            past, now = torch.exp(o - top), torch.exp(bonus - top)
            outputs.append((past * p + now * value) / (past * q + now))
            faded = w + o
            o = torch.maximum(faded, key)
            past, now = torch.exp(faded - o), torch.exp(key - o)
            p, q = past * p + now * value, past * q + now
        return self.output(torch.sigmoid(r) * torch.stack(outputs, 1))


FORMS = {"loop over time": TimeMix}
