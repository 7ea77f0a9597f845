import torch
from torch import nn
from torch.nn import functional as F

MIXER = "{ type: gam }"
# The softmax over 512 slots; two gates, forward and backward.
FUNCTIONS = 512 + 512 * 4


class GAM(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.taps, self.bias = nn.Parameter(torch.randn(3, width)), nn.Parameter(torch.zeros(width))
        self.bank = nn.Parameter(torch.randn(512, width) / width**0.5)
        self.gate = nn.Linear(width, 2 * width)

    def forward(self, x):
        padded = F.pad(x, (0, 0, 2, 0))
        local = sum(padded[:, i : i + x.shape[1]] * self.taps[i] for i in range(3)) + self.bias
        slots = torch.softmax(x @ self.bank.T, -1) @ self.bank
        a, b = torch.sigmoid(self.gate(x)).chunk(2, -1)
        return a * local + b * slots


FORMS = {"products": GAM}
