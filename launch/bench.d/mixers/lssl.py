import math

import torch
from torch import nn
from torch.nn import functional as F

from _state_space import convolved

MIXER = "{ type: lssl }"
# gelu's normal distribution, forward and backward.
FUNCTIONS = 512 * 2


class LSSL(nn.Module):
    """The kernel from powers of the dense transition, doubled until they are enough, then the convolution by transforms."""

    def __init__(self, width, count=256):
        super().__init__()
        n = torch.arange(count)
        root = (2.0 * n + 1).sqrt()
        self.log_step = nn.Parameter(torch.empty(width).uniform_(math.log(1e-3), math.log(0.1)))
        self.tridiagonal = nn.Parameter(torch.eye(count) - torch.diag(torch.ones(count - 1), -1))
        self.left, self.right, self.into = (nn.Parameter(root.clone()) for _ in range(3))
        self.shift = nn.Parameter(-n / (2 * n + 1))
        self.readout = nn.Parameter(torch.randn(width, 1, count))
        self.skip = nn.Parameter(torch.randn(width))
        self.linear = nn.Linear(width, width)

    def forward(self, u):
        identity = torch.eye(len(self.left))
        inner = torch.linalg.solve(self.tridiagonal, torch.diag(self.right)) + torch.diag(self.shift * self.right)
        step = torch.exp(self.log_step)[:, None, None]
        half = step / 2 * (-self.left[:, None] * inner)
        right = torch.cat([identity + half, step * self.into[:, None]], -1)
        power, krylov = torch.linalg.solve(identity - half, right).split([len(identity), 1], -1)
        while krylov.shape[-1] < u.shape[1]:
            krylov = torch.cat([krylov, power @ krylov], -1)
            if krylov.shape[-1] < u.shape[1]:
                power = power @ power
        kernel = (self.readout @ krylov)[:, 0, : u.shape[1]]
        return self.linear(F.gelu(convolved(u, kernel.T) + self.skip * u))


FORMS = {"doubled powers and transforms": LSSL}
