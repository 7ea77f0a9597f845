"""The delta family, in chunks: one triangular solve for all chunks of all heads, then a loop over chunks."""

import torch
from torch import nn
from torch.nn import functional as F


def delta_rule(q, k, v, beta, g, steps, chunk=64):
    """q [B, H, T, K] (scaled), k, v [B, H, n·T, ·], beta [B, H, n·T], g [B, H, T] or None; T a multiple of chunk / n."""
    batch, heads, length, size = q.shape
    count, tokens = length * steps // chunk, chunk // steps
    q, (k, v) = q.unflatten(2, (count, tokens)), (x.unflatten(2, (count, chunk)) for x in (k, v))
    beta = beta.unflatten(2, (count, chunk)).unsqueeze(-1)
    within = torch.arange(chunk) // steps if steps > 1 else slice(None)
    seen = (torch.arange(chunk) // steps <= torch.arange(tokens)[:, None]).to(q.dtype)
    written = k * beta
    products = written @ k.mT
    weights = q @ k.mT
    if g is None:
        weights, into, last = weights * seen, written, None
    else:
        b = g.unflatten(2, (count, tokens)).cumsum(-1)
        rows = b[..., within]
        decay = torch.exp((b[..., :, None] - rows[..., None, :]) * seen) * seen
        products, weights, into = products * decay[..., within, :], weights * decay, written * rows.exp().unsqueeze(-1)
        q, k, last = q * b.exp().unsqueeze(-1), k * decay[..., -1, :, None], b[..., -1].exp()[..., None, None]
    erased = products.tril(-1) + torch.eye(chunk)
    both = torch.linalg.solve_triangular(erased, torch.cat([v * beta, into], -1), upper=False, unitriangular=True)
    values, keys = both.split([v.shape[-1], size], -1)
    state, outputs = q.new_zeros(batch, heads, size, v.shape[-1]), []
    # Unbound, because the gradient of an index is as large as what it picks from.
    for i, (q, k, v, w, a) in enumerate(zip(*(x.unbind(2) for x in (q, k, values, keys, weights)))):
        u = v - w @ state
        outputs.append(q @ state + a @ u)
        state = (state if last is None else last[:, :, i] * state) + k.mT @ u
    return torch.cat(outputs, 2)


class DeltaMemory(nn.Module):
    """Eight heads of 64; the short convolutions are shifted products, which torch computes faster than its own."""

    def __init__(self, width, steps=1, decays=True, gated=True, negative=False):
        super().__init__()
        self.heads, self.size, self.steps, self.factor = 8, width // 8, steps, 2 if negative else 1
        widths = {"q": width, "k": steps * width, "v": steps * width}
        self.projections = nn.ModuleDict({n: nn.Linear(width, w, bias=False) for n, w in widths.items()})
        self.taps = nn.ParameterDict({n: nn.Parameter(torch.randn(4, w) / 2) for n, w in widths.items()})
        self.beta = nn.Linear(width, steps * self.heads, bias=False)
        self.decay = nn.Linear(width, self.heads) if decays else None
        self.rate = nn.Parameter(torch.zeros(self.heads))
        self.gate = nn.Linear(width, width, bias=False) if gated else None
        self.norm = nn.Parameter(torch.ones(self.size))
        self.output = nn.Linear(width, width, bias=False)

    def branch(self, x, name):
        y = self.projections[name](x)
        padded = F.pad(y, (0, 0, 3, 0))
        y = F.silu(sum(padded[:, i : i + x.shape[1]] * self.taps[name][i] for i in range(4)))
        return y.view(len(x), -1, self.heads, self.size).transpose(1, 2)

    def forward(self, x):
        q, k, v = (self.branch(x, name) for name in "qkv")
        beta = self.factor * torch.sigmoid(self.beta(x)).view(len(x), -1, self.heads).mT
        g = None if self.decay is None else (-self.rate.exp() * F.softplus(self.decay(x))).mT
        q, k = F.normalize(q, dim=-1) * self.size**-0.5, F.normalize(k, dim=-1)
        o = delta_rule(q, k, v, beta, g, self.steps)
        o = F.rms_norm(o, (self.size,), self.norm, 1e-5).transpose(1, 2).flatten(2)
        return self.output(o if self.gate is None else o * F.silu(self.gate(x)))
