"""Retention: 8 heads of key width 64 and value width 128, chunks of 64."""

import torch
from torch import nn
from torch.nn import functional as F

from _chunks import scalar_memory

MIXER = "{ type: retnet, head_count: 8 }"
# Output gate, and decays between the tokens of a chunk; forward and backward.
FUNCTIONS = 2 * (1024 + 8 * 32)


class Chunks(nn.Module):
    def __init__(self, width=512, heads=8):
        super().__init__()
        self.heads, self.key, self.value = heads, width // heads, 2 * width // heads
        self.q, self.k = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.v, self.g = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.o = nn.Linear(2 * width, width, bias=False)
        self.norm = nn.Parameter(torch.ones(self.value))
        self.register_buffer("rates", torch.log(1 - 2.0 ** (-5 - torch.arange(heads))))

    def forward(self, x):
        angle = torch.outer(torch.arange(x.shape[1]), 10_000 ** (-torch.arange(0, self.key, 2) / self.key)).repeat(1, 2)
        cosine, sine = angle.cos()[:, None], angle.sin()[:, None]

        def heads(y):
            return y.unflatten(-1, (self.heads, -1))

        def rotated(y):
            first, second = y.chunk(2, dim=-1)
            return y * cosine + torch.cat((-second, first), dim=-1) * sine

        q, k, v = rotated(heads(self.q(x))), rotated(heads(self.k(x))), heads(self.v(x))
        o = scalar_memory(q, k, v, self.rates.expand(*x.shape[:2], -1), self.key**-0.5)
        o = F.rms_norm(o, (self.value,), self.norm, 1e-5).flatten(-2)
        return self.o(o * F.silu(self.g(x)))


FORMS = {"chunks of 64": Chunks}
