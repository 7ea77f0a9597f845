"""minGRU (arXiv 2410.01201)."""

import torch
import torch.nn.functional as F

from mixers import _minimal


def shapes(config, width):
    return _minimal.shapes(config, width, "to_hidden_and_gate", 2)


def output_width(config, width):
    return width


def forward(config, own, x):
    hidden, gate = (x @ own["mixer.to_hidden_and_gate.weight"].T).chunk(2, -1)
    z = torch.sigmoid(gate)
    return _minimal.run(config, own, 1 - z, z, hidden)


def check():
    def gates(pre):
        hidden, gate = pre.chunk(2, -1)
        return F.logsigmoid(-gate), F.logsigmoid(gate), hidden

    _minimal.check(forward, shapes, gates)
