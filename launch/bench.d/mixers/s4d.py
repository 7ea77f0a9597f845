import math

import torch
from torch import nn

from _state_space import Output, convolved

MIXER = "{ type: s4d }"
# gelu's normal distribution and a sigmoid, forward and backward.
FUNCTIONS = 512 * 3


class S4D(nn.Module):
    """The kernel from powers of the transition, then the convolution by transforms."""

    def __init__(self, width, count=32):
        super().__init__()
        self.log_step = nn.Parameter(torch.empty(width).uniform_(math.log(1e-3), math.log(0.1)))
        self.log_real = nn.Parameter(torch.full((width, count), math.log(0.5)))
        self.imaginary = nn.Parameter(math.pi * torch.arange(count).repeat(width, 1))
        self.readout = nn.Parameter(torch.randn(width, count, dtype=torch.cfloat))
        self.skip = nn.Parameter(torch.randn(width))
        self.output = Output(width)

    def forward(self, u):
        pole = torch.complex(-torch.exp(self.log_real), self.imaginary)
        exponent = pole * torch.exp(self.log_step)[:, None]
        readout = self.readout * (torch.exp(exponent) - 1) / pole
        powers = torch.exp(exponent[..., None] * torch.arange(u.shape[1]))
        kernel = 2 * torch.einsum("hn,hnl->lh", readout, powers).real
        return self.output(convolved(u, kernel) + self.skip * u)


FORMS = {"convolution by transforms": S4D}
