"""Convolutions and scans of state spaces, as they are written in plain PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F


def convolved(u, kernel):
    """Causal convolution of u `[B, T, D]` with a kernel `[T, D]`, by transforms of twice the length."""
    length = 2 * u.shape[1]
    product = torch.fft.rfft(u, length, dim=1) * torch.fft.rfft(kernel, length, dim=0)
    return torch.fft.irfft(product, length, dim=1)[:, : u.shape[1]]


class Output(nn.Module):
    """gelu, and a linear unit gated by its second half."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, y):
        return F.glu(self.linear(F.gelu(y)))


class Shared(nn.Module):
    """One complex state for all features; `scan` maps inputs `[B, T, P]` to states."""

    def __init__(self, width, count, has_full_gate):
        super().__init__()
        self.decay = nn.Parameter(torch.polar(0.8 + 0.19 * torch.rand(count), torch.rand(count)))
        self.into = nn.Parameter(torch.randn(2 * count, width) / (2 * width) ** 0.5)
        self.out = nn.Parameter(torch.randn(width, 2 * count) / count**0.5)
        self.skip = nn.Parameter(torch.randn(width))
        self.value = nn.Linear(width, width) if has_full_gate else nn.Identity()
        self.gate = nn.Linear(width, width)

    def forward(self, u):
        x = self.scan(torch.complex(*(u @ self.into.T).chunk(2, -1)))
        g = F.gelu(torch.cat([x.real, x.imag], -1) @ self.out.T + self.skip * u, approximate="tanh")
        return self.value(g) * torch.sigmoid(self.gate(g))


class InOrder(Shared):
    def scan(self, inputs):
        x, states = torch.zeros_like(inputs[:, 0]), []
        for step in inputs.unbind(1):
            x = torch.addcmul(step, self.decay, x)
            states.append(x)
        return torch.stack(states, 1)


class Doubling(Shared):
    def scan(self, inputs):
        x, decay, distance = inputs, self.decay, 1
        while distance < inputs.shape[1]:
            x = x + F.pad(decay * x[:, :-distance], (0, 0, distance, 0))
            decay, distance = decay * decay, 2 * distance
        return x


def shared_forms(count, has_full_gate):
    return {
        "loop over time": lambda width: InOrder(width, count, has_full_gate),
        "scan by doubling": lambda width: Doubling(width, count, has_full_gate),
    }
