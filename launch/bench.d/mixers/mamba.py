import torch
from torch import nn
from torch.nn import functional as F

MIXER = "{ type: mamba }"
# e^{ΔA} for 16 states of 1024 channels, forward and again in the backward, which does not keep them; softplus and silu.
FUNCTIONS = 1024 * (2 * 16 + 8)


class Mamba(nn.Module):
    """Loop over time; all products, and the exponentials of a step at once, outside of it or in one call."""

    def __init__(self, width, states=16, taps=4):
        super().__init__()
        inner, self.rank, self.states = 2 * width, width // 16, states
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, taps, groups=inner, padding=taps - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        nn.init.constant_(self.dt_proj.bias, -4.0)
        self.log_a = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, u):
        x, z = self.in_proj(u).chunk(2, -1)
        x = F.silu(self.convolution(x.mT)[..., : u.shape[1]].mT)
        low, b, c = self.x_proj(x).split([self.rank, self.states, self.states], -1)
        delta, a = F.softplus(self.dt_proj(low)), -torch.exp(self.log_a)
        h, outputs = x.new_zeros(len(x), x.shape[2], self.states), []
        steps = zip(delta.unbind(1), (delta * x).unbind(1), b.unbind(1), c.unbind(1))
        for step, driven, into, out in steps:
            h = torch.exp(step[..., None] * a) * h + driven[..., None] * into[:, None]
            outputs.append(torch.bmm(h, out[..., None])[..., 0])
        return self.out_proj((torch.stack(outputs, 1) + self.skip * x) * F.silu(z))


FORMS = {"loop over time": Mamba}
