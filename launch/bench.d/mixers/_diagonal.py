"""ParaRNN's diagonal cells, in order."""

import torch
from torch import nn


class Diagonal(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.input = nn.Parameter(torch.randn(2, width // 2, 3 * width // 2) / width**0.5)
        self.a = nn.Parameter(torch.randn(3, width) / width**0.5)
        self.peepholes = nn.Parameter(torch.randn(2, width) / width**0.5)

    def pre(self, x):
        """Three of [T, B, S]."""
        heads = x.reshape(-1, 2, x.shape[-1] // 2).transpose(0, 1)
        u = torch.bmm(heads, self.input).unflatten(-1, (3, -1)).permute(2, 1, 0, 3).flatten(2)
        return u.unflatten(1, x.shape[:2]).transpose(1, 2).contiguous()


class GRU(Diagonal):
    def forward(self, x):
        h, outputs = torch.zeros_like(x[:, 0]), []
        for uz, ur, un in zip(*(u.unbind(0) for u in self.pre(x))):
            z, r = torch.sigmoid(torch.addcmul(uz, self.a[0], h)), torch.sigmoid(torch.addcmul(ur, self.a[1], h))
            h = torch.lerp(h, torch.tanh(torch.addcmul(un, self.a[2], h * r)), z)
            outputs.append(h)
        return torch.stack(outputs, 1)


class LSTM(Diagonal):
    def forward(self, x):
        h = c = torch.zeros_like(x[:, 0])
        outputs = []
        for uf, uo, ug in zip(*(u.unbind(0) for u in self.pre(x))):
            f = torch.sigmoid(torch.addcmul(torch.addcmul(uf, self.a[0], h), self.peepholes[0], c))
            c = torch.lerp(torch.tanh(torch.addcmul(ug, self.a[2], h)), c, f)
            o = torch.sigmoid(torch.addcmul(torch.addcmul(uo, self.a[1], h), self.peepholes[1], c))
            h = o * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 1)
