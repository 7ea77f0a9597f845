import torch
from torch import nn

MIXER = "{ type: rhn, depth: 4 }"
# tanh and sigmoid in four micro-layers.
FUNCTIONS = 512 * 2 * 4
# Each step of four tokens reads the weights of its micro-layers forward and backward: 8 MB, where a core's own cache has 2.
# Four rows are 8 FLOPs a weight; the core would need 80 GB/s to do them at its peak.
STREAM = (4 * 512 * 1024 * 4, 2 / 4, 2 * 2 * 4 * 512 * 1024)


class Highway(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.input = nn.Linear(width, 2 * width, bias=False)
        self.weights = nn.ParameterList([0.04 * torch.randn(width, 2 * width) for _ in range(4)])
        self.biases = nn.ParameterList([torch.zeros(2 * width) for _ in range(4)])

    def forward(self, x):
        u = (self.input(x) + self.biases[0]).transpose(0, 1).contiguous()
        s, outputs = torch.zeros_like(x[:, 0]), []
        for a in u.unbind(0):
            for layer in range(4):
                h, t = torch.addmm(a if layer == 0 else self.biases[layer], s, self.weights[layer]).chunk(2, -1)
                s = torch.lerp(s, torch.tanh(h), torch.sigmoid(t))
            outputs.append(s)
        return torch.stack(outputs, 1)


FORMS = {"loop over time": Highway}
