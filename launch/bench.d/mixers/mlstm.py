"""mLSTM with exponential gates: 8 heads of key width 32 and value width 64, chunks of 64."""

import torch
from torch import nn
from torch.nn import functional as F

from _chunks import chunked, unchunked

MIXER = "{ type: mlstm, head_count: 8 }"
# Output gate, and decays between the tokens of a chunk; forward and backward.
FUNCTIONS = 2 * (512 + 8 * 32)


class Chunks(nn.Module):
    def __init__(self, width=512, heads=8):
        super().__init__()
        self.heads, self.key, self.value = heads, width // 2 // heads, width // heads
        self.q, self.k = (nn.Linear(width, width // 2, bias=False) for _ in range(2))
        self.v, self.gate, self.o = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.gates = nn.Linear(width, 2 * heads)
        self.norm = nn.Parameter(torch.ones(width))

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (self.heads, -1))

        i, f = (15 * torch.tanh(self.gates(x) / 15)).chunk(2, -1)
        h = memory(heads(self.q(x)), heads(self.k(x)), heads(self.v(x)), i, F.logsigmoid(f + 4))
        h = F.layer_norm(h, (self.value,), eps=1e-6).flatten(-2) * self.norm
        return self.o(torch.sigmoid(self.gate(x)) * h)


def memory(q, k, v, i, log_forget, length=64, epsilon=1e-6):
    q, k, v, i, g = (chunked(y, length) for y in (q * q.shape[-1] ** -0.5, k, v, i, log_forget))
    total = g.cumsum(-1)
    last = total[..., -1:]
    ends = last - total + i  # log-weight of every token in its chunk's update
    # Maxima and states before every chunk; the normaliser is one more column of values.
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    maximum, state = torch.zeros_like(last[:, :, 0]), k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    maxima, states = [], []
    for c in range(q.shape[2]):
        maxima.append(maximum)
        states.append(state)
        following = torch.maximum(last[:, :, c] + maximum, ends[:, :, c].amax(-1, keepdim=True)).detach()
        weights = (ends[:, :, c] - following).exp()[..., None]
        state = (last[:, :, c] + maximum - following).exp()[..., None] * state + (weights * k[:, :, c]).mT @ v[:, :, c]
        maximum = following
    before, states = torch.stack(maxima, 2), torch.stack(states, 2)
    mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    exponents = (total[..., :, None] - total[..., None, :] + i[..., None, :]).masked_fill(~mask, float("-inf"))
    m = torch.maximum(total + before, exponents.amax(-1)).detach()
    scores = q @ k.mT * (exponents - m[..., None]).exp()
    summed = scores @ v + q @ states * (total + before - m).exp()[..., None]
    size = torch.maximum(summed[..., -1].abs(), (-m).exp()) + epsilon
    return unchunked(summed[..., :-1] / size[..., None])


FORMS = {"chunks of 64": Chunks}
