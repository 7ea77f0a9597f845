"""MEGA's unit around any `move`; chunks of 128 tokens are one batch of small attentions."""

import torch
from torch import nn
from torch.nn import functional as F

CHUNK, KEYS = 128, 128


class Unit(nn.Module):
    def __init__(self, width, move):
        super().__init__()
        self.move, self.norm, self.inner = move, nn.LayerNorm(width), 2 * width
        self.value, self.hidden = nn.Linear(width, self.inner), nn.Linear(self.inner, width)
        self.mixed = nn.Linear(width, 2 * width + KEYS + self.inner)
        self.gamma, self.beta = nn.Parameter(torch.randn(2, KEYS)), nn.Parameter(torch.zeros(2, KEYS))
        self.bias = nn.Parameter(torch.randn(2 * CHUNK - 1) / 50)

    def forward(self, x):
        width = x.shape[2]
        normed = self.norm(x)
        v = F.silu(self.value(normed)).unflatten(1, (-1, CHUNK))
        u, z, r, hx = self.mixed(F.silu(self.move(normed))).split([width, KEYS, self.inner, width], -1)
        z = F.silu(z)
        q, k = ((z * self.gamma[i] + self.beta[i]).unflatten(1, (-1, CHUNK)) for i in (0, 1))
        lag = torch.arange(CHUNK) - torch.arange(CHUNK)[:, None]
        mask = self.bias[lag + CHUNK - 1].masked_fill(lag > 0, -torch.inf)
        o = torch.softmax(q @ k.mT * KEYS**-0.5 + mask, -1) @ v
        h = F.silu(hx + self.hidden(o.flatten(1, 2) * F.silu(r)))
        return x + torch.sigmoid(u) * (h - x)
