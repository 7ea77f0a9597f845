"""Linear attention with learned feature maps: 8 heads of width 64, chunks of 64."""

import torch
from torch import nn
from torch.nn import functional as F

from _chunks import plain_memory

MIXER = "{ type: linear_attention, head_count: 8 }"
FUNCTIONS = 0


class Chunks(nn.Module):
    def __init__(self, width=512, heads=8):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.maps = nn.ModuleList(nn.Linear(self.size, self.size) for _ in range(4))
        self.norm = nn.Parameter(torch.ones(self.size))

    def forward(self, x):
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)) for linear in (self.q, self.k, self.v))
        q, k = self.maps[0](q) * self.maps[1](q), self.maps[2](k) * self.maps[3](k)
        o = plain_memory(q, k, v, self.size**-0.5)
        return self.o(F.rms_norm(o, (self.size,), self.norm, 1e-5).flatten(-2))


FORMS = {"chunks of 64": Chunks}
