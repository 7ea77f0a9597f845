"""ParaRNN's diagonal LSTM with coupled gates and peepholes (arXiv 2510.21450), step by step."""

import torch

from mixers import _diagonal
from mixers._diagonal import draw


def shapes(config, width):
    return _diagonal.shapes(config, width) | {"mixer.C": (2, _diagonal.sizes(config, width)[0])}


def output_width(config, width):
    return config.get("state_dim", width)


def cell(own, s, u):
    """One step, state [..., 2, S] of c, h, u [..., 3, S] of f, o, c."""
    (c, h), a, p = s.unbind(-2), own["mixer.A"], own["mixer.C"]
    f = torch.sigmoid(a[0] * h + p[0] * c + u[..., 0, :])
    c = f * c + (1 - f) * torch.tanh(a[2] * h + u[..., 2, :])
    o = torch.sigmoid(a[1] * h + p[1] * c + u[..., 1, :])
    return torch.stack([c, o * torch.tanh(c)], -2)


def forward(config, own, x):
    u = _diagonal.inputs(config, own, x)
    s = torch.zeros_like(u[:, 0, :2])
    outputs = []
    for t in range(x.shape[1]):
        s = cell(own, s, u[:, t])
        outputs.append(s[:, 1])
    return torch.stack(outputs, 1), {"s": s.flatten(1)[None]}


def check():
    _diagonal.check(cell, 2)
