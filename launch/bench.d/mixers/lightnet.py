"""LightNet: 8 heads of key width 128 and value width 64, chunks of 64."""

import torch
from torch import nn
from torch.nn import functional as F

from _chunks import channel_memory

MIXER = "{ type: lightnet, head_count: 8 }"
# Per key channel the query's silu, three for the running softmax, one decay; the output gate; forward and backward.
FUNCTIONS = 2 * (1024 * 5 + 512)


class Chunks(nn.Module):
    def __init__(self, width=512, heads=8, key=128, rank=128):
        super().__init__()
        self.heads, self.key, self.width = heads, key, width
        self.q, self.k = (nn.Linear(width, heads * key, bias=False) for _ in range(2))
        self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.norm = nn.Parameter(torch.ones(width))

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (self.heads, -1))

        scores = self.k(x)
        z = scores.logcumsumexp(1)
        decay = F.pad(z[:, :-1] - z[:, 1:], (0, 0, 1, 0))
        o = channel_memory(heads(F.silu(self.q(x))), heads((scores - z).exp()), heads(self.v(x)), heads(decay), self.key**-0.5)
        o = F.rms_norm(o.flatten(-2), (self.width,), self.norm, 1e-6)
        return self.o(o * F.silu(self.up(self.down(x))))


FORMS = {"chunks of 64": Chunks}
