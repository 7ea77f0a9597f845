"""JRT: 8 heads of value width 64 and 16 feature channels, chunks of 64, a prefix of half the sequence."""

import torch
from torch import nn

import based
from _chunks import plain_memory

MIXER = "{ type: jrt, head_count: 8, enc_length: 512 }"
FUNCTIONS = 0


class Chunks(based.Chunks):
    def __init__(self, width=512, heads=8, features=16, prefix=512):
        super().__init__(width, heads, features)
        self.prefix = prefix
        self.early_k = nn.Linear(width, heads * features, bias=False)
        self.early_v = nn.Linear(width, width, bias=False)

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (self.heads, -1))

        def with_ones(v):
            return torch.cat([v, torch.ones_like(v[..., :1])], -1)

        start = x[:, : self.prefix]
        state = torch.einsum(
            "bthk,bthv->bhkv", self.features(heads(self.early_k(start))), with_ones(heads(self.early_v(start))))
        q, k, v = self.features(heads(self.q(x))), self.features(heads(self.k(x))), with_ones(heads(self.v(x)))
        o = plain_memory(q, k, v) + torch.einsum("bthk,bhkv->bthv", q, state)
        return self.o((o[..., :-1] / (o[..., -1:] + 1e-12)).flatten(-2))


FORMS = {"chunks of 64": Chunks}
