"""Gated linear attention: 8 heads of key width 32 and value width 64, chunks of 64."""

import torch
from torch import nn
from torch.nn import functional as F

from _chunks import channel_memory

MIXER = "{ type: gla, head_count: 8 }"
# Gates of output and memory, and one exponential per key channel; forward and backward.
FUNCTIONS = 2 * (512 + 256 + 256)


class Chunks(nn.Module):
    def __init__(self, width=512, heads=8, rank=16):
        super().__init__()
        self.heads, self.key, self.value = heads, width // 2 // heads, width // heads
        self.q, self.k = (nn.Linear(width, width // 2, bias=False) for _ in range(2))
        self.v, self.g, self.o = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width // 2)
        self.norm = nn.Parameter(torch.ones(self.value))

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (self.heads, -1))

        decay = F.logsigmoid(self.up(self.down(x))) / 16
        o = channel_memory(heads(self.q(x)), heads(self.k(x)), heads(self.v(x)), heads(decay), self.key**-0.5)
        o = F.rms_norm(o, (self.value,), self.norm, 1e-5).flatten(-2)
        return self.o(o * F.silu(self.g(x)))


FORMS = {"chunks of 64": Chunks}
