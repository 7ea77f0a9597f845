import torch
from torch import nn
from torch.nn import functional as F

MIXER = "{ type: rwkv4_channel_mix }"
# A sigmoid.
FUNCTIONS = 512


class ChannelMix(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.key, self.value = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.mixes = nn.Parameter(torch.rand(2, width))

    def forward(self, x):
        before = F.pad(x[:, :-1], (0, 0, 1, 0))
        key, gate = (torch.lerp(before, x, mix) for mix in self.mixes)
        return torch.sigmoid(self.receptance(gate)) * self.value(F.relu(self.key(key)).square())


FORMS = {"plain": ChannelMix}
