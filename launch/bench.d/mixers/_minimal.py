"""minGRU and minLSTM: in order, and as published, a scan of logarithms."""

import torch
from torch import nn
from torch.nn import functional as F


class InOrder(nn.Module):
    """`gates(pre)` gives what is kept of the state and what is taken of the candidate."""

    def __init__(self, width, count, gates):
        super().__init__()
        self.project, self.count, self.gates = nn.Linear(width, count * width, bias=False), count, gates

    def forward(self, x):
        hidden, *gates = self.project(x).chunk(self.count, -1)
        log_keep, log_take = self.gates(*gates)
        g = torch.where(hidden >= 0, hidden + 0.5, torch.sigmoid(hidden))
        h, outputs = torch.zeros_like(g[:, 0]), []
        for keep, value in zip(log_keep.exp().unbind(1), (log_take.exp() * g).unbind(1)):
            h = torch.addcmul(value, keep, h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class LogSpace(InOrder):
    def forward(self, x):
        hidden, *gates = self.project(x).chunk(self.count, -1)
        log_keep, log_take = self.gates(*gates)
        log_g = torch.where(hidden >= 0, (F.relu(hidden) + 0.5).log(), F.logsigmoid(hidden))
        prefix = log_keep.cumsum(1)
        return torch.exp(prefix + (log_take + log_g - prefix).logcumsumexp(1))


def forms(count, gates):
    return {"loop over time": lambda width: InOrder(width, count, gates),
            "log-space scan": lambda width: LogSpace(width, count, gates)}
