"""torch.nn's recurrent networks as mixers."""

from torch import nn


class First(nn.Module):
    """Of a module's results the first."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]
