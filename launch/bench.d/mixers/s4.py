import math

import torch
from torch import nn

from _state_space import Output, convolved

MIXER = "{ type: s4 }"
# gelu's normal distribution and a sigmoid, forward and backward.
FUNCTIONS = 512 * 3


class S4(nn.Module):
    """The published form: the resolvent at roots of unity gives the kernel's transform."""

    def __init__(self, width, count=32):
        super().__init__()
        self.log_step = nn.Parameter(torch.empty(width, 1).uniform_(math.log(1e-3), math.log(0.1)))
        self.imaginary = nn.Parameter(-torch.logspace(-0.4, 2.8, count))
        self.low, self.into = (nn.Parameter(torch.randn(count, dtype=torch.cfloat)) for _ in range(2))
        self.readout = nn.Parameter(torch.randn(width, count, dtype=torch.cfloat))
        self.skip = nn.Parameter(torch.randn(width))
        self.output = Output(width)

    def forward(self, u):
        length = u.shape[1]
        root = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1) / length)
        step = torch.exp(self.log_step)
        pole = step * torch.complex(torch.full_like(self.imaginary, -0.5), self.imaginary)
        cauchy = step[..., None] / (2 * (1 - root) / (1 + root + 1e-6) - pole[..., None])  # [D, n, T/2 + 1]
        low = self.low.expand_as(pole)
        r00, r01, r10, r11 = (
            torch.einsum("hn,hnl->hl", weight, cauchy)
            for weight in (self.readout * self.into, self.readout * low, low.conj() * self.into, low.conj() * low))
        kernel = torch.fft.irfft(2 / (1 + root + 1e-6) * (r00 - r01 * r10 / (1 + r11)), n=length)
        return self.output(convolved(u, kernel.T) + self.skip * u)


FORMS = {"Cauchy kernel and transforms": S4}
