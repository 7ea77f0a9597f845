"""Mamba-2 with head size 64, state size 128, in chunks of 64."""

import torch
from torch import nn
from torch.nn import functional as F

from _chunks import scalar_memory

MIXER = "{ type: mamba2 }"
# Silu after the convolution and in the gate, decays between the tokens of a chunk; forward and backward.
FUNCTIONS = 2 * (1280 + 1024 + 16 * 32)


class Chunks(nn.Module):
    def __init__(self, width=512, head_size=64, states=128, taps=4):
        super().__init__()
        self.inner, self.states, self.head_size = 2 * width, states, head_size
        self.heads = self.inner // head_size
        channels = self.inner + 2 * states
        self.in_proj = nn.Linear(width, self.inner + channels + self.heads, bias=False)
        self.conv = nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1)
        self.dt_bias, self.a_log = nn.Parameter(torch.full((self.heads,), -4.0)), nn.Parameter(torch.zeros(self.heads))
        self.skip, self.norm = nn.Parameter(torch.ones(self.heads)), nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, width, bias=False)

    def forward(self, x):
        time = x.shape[1]
        z, mixed, raw = self.in_proj(x).split([self.inner, self.inner + 2 * self.states, self.heads], -1)
        mixed = F.silu(self.conv(mixed.mT)[..., :time].mT)
        values, keys, queries = mixed.split([self.inner, self.states, self.states], -1)
        values = values.unflatten(-1, (self.heads, self.head_size))
        step = F.softplus(raw + self.dt_bias)
        y = scalar_memory(queries[:, :, None], keys[:, :, None], values * step[..., None], -self.a_log.exp() * step)
        y = (y + values * self.skip[:, None]).flatten(-2) * F.silu(z)
        return self.out_proj(F.rms_norm(y, (self.inner,), self.norm, 1e-5))


FORMS = {"chunks of 64": Chunks}
