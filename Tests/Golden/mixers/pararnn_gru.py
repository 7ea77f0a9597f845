"""ParaRNN's diagonal GRU (arXiv 2510.21450), step by step."""

import torch

from mixers import _diagonal
from mixers._diagonal import draw, shapes


def output_width(config, width):
    return config.get("state_dim", width)


def cell(own, s, u):
    """One step, state [..., 1, S], u [..., 3, S] of z, r, h."""
    h, a = s[..., 0, :], own["mixer.A"]
    z, r = torch.sigmoid(a[0] * h + u[..., 0, :]), torch.sigmoid(a[1] * h + u[..., 1, :])
    new = torch.tanh(a[2] * h * r + u[..., 2, :])
    return (z * new + (1 - z) * h).unsqueeze(-2)


def forward(config, own, x):
    u = _diagonal.inputs(config, own, x)
    s = torch.zeros_like(u[:, 0, :1])
    outputs = []
    for t in range(x.shape[1]):
        s = cell(own, s, u[:, t])
        outputs.append(s[:, 0])
    return torch.stack(outputs, 1), {"h": s.flatten(1)[None]}


def check():
    _diagonal.check(cell, 1)
