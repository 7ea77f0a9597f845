"""Based: 8 heads of value width 64 and 16 feature channels, chunks of 64."""

import torch
from torch import nn

from _chunks import plain_memory

MIXER = "{ type: based, head_count: 8 }"
FUNCTIONS = 0


class Chunks(nn.Module):
    def __init__(self, width=512, heads=8, features=16):
        super().__init__()
        self.heads, self.size = heads, features
        self.q, self.k = (nn.Linear(width, heads * features, bias=False) for _ in range(2))
        self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
        rows, columns = torch.triu_indices(features, features)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        # Each pair once: the square root of 2 makes up for its twin.
        self.register_buffer("weights", torch.where(rows == columns, 0.5, 1.0).sqrt() / features**0.5)

    def features(self, x):
        pairs = x[..., self.rows] * x[..., self.columns] * self.weights
        return torch.cat([torch.ones_like(x[..., :1]), x / self.size**0.25, pairs], -1)

    def forward(self, x):
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)) for linear in (self.q, self.k, self.v))
        q, k, v = self.features(q), self.features(k), torch.cat([v, torch.ones_like(v[..., :1])], -1)
        o = plain_memory(q, k, v)
        return self.o((o[..., :-1] / (o[..., -1:] + 1e-12)).flatten(-2))


FORMS = {"chunks of 64": Chunks}
