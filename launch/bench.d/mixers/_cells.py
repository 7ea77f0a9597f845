"""Loops over time of recurrent cells of several heads."""

import torch
from torch import nn


class HeadsLoop(nn.Module):
    """`step(a, states)` once for every token; `a [B, N, G·S]` holds the gates with the recurrent product in."""

    def __init__(self, width, heads, gates, state_count):
        super().__init__()
        self.heads, self.gates, self.state_count, self.size = heads, gates, state_count, width // heads
        self.recurrent = nn.Parameter(torch.randn(heads, self.size, gates * self.size) / self.size**0.5)

    def pre(self, x):
        """[T, N, B, G·S]"""
        raise NotImplementedError

    def step(self, a, states):
        raise NotImplementedError

    def forward(self, x):
        pre = self.pre(x)
        states = [x.new_zeros(self.heads, x.shape[0], self.size)] * self.state_count
        outputs = []
        for a in pre.unbind(0):
            states = self.step(torch.baddbmm(a, states[0], self.recurrent), states)
            outputs.append(states[0])
        return torch.stack(outputs, 0).permute(2, 0, 1, 3).flatten(2)


class Dense(HeadsLoop):
    """Gates from one dense linear map."""

    def __init__(self, width, heads, gates, state_count):
        super().__init__(width, heads, gates, state_count)
        self.input = nn.Linear(width, gates * width)

    def pre(self, x):
        return self.input(x).unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3).contiguous()
