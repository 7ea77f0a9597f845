import torch
from torch import nn

MIXER = "{ type: lmu, memory_size: 256, theta: 512 }"
# tanh; its derivative needs none.
FUNCTIONS = 512
# As rhn, 2.4 MB of recurrent weights.
STREAM = (768 * 768 * 4, 2 / 4, 2 * 2 * 768 * 768)


class LMU(nn.Module):
    """As one network of hidden and memory units, so that a step is one product."""

    def __init__(self, width, memory=256):
        super().__init__()
        self.width, size = width, width + memory
        self.into = nn.Linear(width, size, bias=False)
        self.recurrent = nn.Parameter(0.3 * torch.randn(size, size) / size**0.5)

    def forward(self, x):
        inputs = self.into(x).transpose(0, 1).contiguous()
        state, outputs, weight = torch.zeros_like(inputs[0]), [], self.recurrent.T
        for step in inputs.unbind(0):
            state = torch.addmm(step, state, weight)
            hidden = torch.tanh(state[:, : self.width])
            state = torch.cat([hidden, state[:, self.width :]], -1)
            outputs.append(hidden)
        return torch.stack(outputs, 1)


FORMS = {"loop over time": LMU}
