"""minLSTM (arXiv 2410.01201)."""

import torch
import torch.nn.functional as F

from mixers import _minimal


def shapes(config, width):
    return _minimal.shapes(config, width, "to_hidden_and_f_i_gate", 3)


def output_width(config, width):
    return width


def forward(config, own, x):
    hidden, f, i = (x @ own["mixer.to_hidden_and_f_i_gate.weight"].T).chunk(3, -1)
    f, i = torch.sigmoid(f), torch.sigmoid(i)
    return _minimal.run(config, own, f / (f + i), i / (f + i), hidden)


def check():
    def gates(pre):
        hidden, f, i = pre.chunk(3, -1)
        difference = F.softplus(-f) - F.softplus(-i)
        return -F.softplus(difference), -F.softplus(-difference), hidden

    _minimal.check(forward, shapes, gates)
