"""Hydra: Mamba-2's memory from both sides, head size 64, state size 64, in chunks of 64."""

import torch
from torch import nn
from torch.nn import functional as F

from _chunks import scalar_memory

MIXER = "{ type: hydra }"
# Silu after the convolution and in the gate, decays between the tokens of a chunk, twice; forward and backward.
FUNCTIONS = 2 * (1280 + 1024 + 2 * 16 * 32)


class Chunks(nn.Module):
    def __init__(self, width=512, head_size=64, states=64, taps=7):
        super().__init__()
        self.inner, self.states, self.head_size = 2 * width, states, head_size
        self.heads = self.inner // head_size
        self.channels = self.inner + 4 * states
        self.in_proj = nn.Linear(width, self.inner + self.channels + 2 * self.heads, bias=False)
        self.conv = nn.Conv1d(self.channels, self.channels, taps, groups=self.channels, padding=taps // 2)
        self.dt_bias = nn.Parameter(torch.full((self.heads,), -4.0))
        self.a_log, self.skip = nn.Parameter(torch.zeros(self.heads)), nn.Parameter(torch.ones(self.heads))
        self.diagonal = nn.Linear(self.inner, self.heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, width, bias=False)

    def forward(self, x):
        z, mixed, raw = self.in_proj(x).split([self.inner, self.channels, 2 * self.heads], -1)
        mixed = F.silu(self.conv(mixed.mT).mT)
        values, *pairs = mixed.split([self.inner] + [self.states] * 4, -1)
        values = values.unflatten(-1, (self.heads, -1))

        def memory(keys, queries, raw, values):
            steps = F.softplus(raw + self.dt_bias)
            y = scalar_memory(queries.unsqueeze(2), keys.unsqueeze(2), values * steps[..., None],
                              -steps * self.a_log.exp())
            return F.pad(y, (0, 0, 0, 0, 1, 0))[:, :-1]

        onwards = memory(pairs[0], pairs[1], raw[..., : self.heads], values)
        backwards = memory(pairs[2].flip(1), pairs[3].flip(1), raw[..., self.heads :].flip(1), values.flip(1)).flip(1)
        own = (self.diagonal(values.flatten(-2)) + self.skip)[..., None] * values
        y = (onwards + backwards + own).flatten(-2)
        return self.out_proj(F.rms_norm(y, (self.inner,), self.norm, 1e-5) * F.silu(z))


FORMS = {"chunks of 64": Chunks}
