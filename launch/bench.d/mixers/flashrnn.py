import torch

from _cells import Dense

MIXER = "{ type: flashrnn, function: lstm, head_count: 8 }"
# Three sigmoids, tanh of the candidate, and of the cell both ways.
FUNCTIONS = 512 * 6


class LSTM(Dense):
    def __init__(self, width):
        super().__init__(width, 8, 4, 2)

    def step(self, a, states):
        i, f, z, o = a.chunk(4, -1)
        c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(z)
        return [torch.sigmoid(o) * torch.tanh(c), c]


FORMS = {"loop over time": LSTM}
