import torch
from torch import nn
from torch.nn import functional as F

MIXER = "{ type: leaky_rnn }"
FUNCTIONS = 0


class Leaky(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.input, self.recurrent = nn.Linear(width, width), nn.Linear(width, width)
        self.taus = nn.Parameter(1 + torch.rand(width))

    def forward(self, x):
        rate = 1 / self.taus.clamp(min=1)
        weight = (self.recurrent.weight - torch.diag(self.recurrent.weight.diagonal())).T
        u = (self.input(x) + self.recurrent.bias).transpose(0, 1).contiguous()
        h, outputs = torch.zeros_like(u[0]), []
        for a in u.unbind(0):
            h = F.leaky_relu(torch.lerp(h, torch.addmm(a, h, weight), rate))
            outputs.append(h)
        return torch.stack(outputs, 1)


FORMS = {"loop over time": Leaky}
