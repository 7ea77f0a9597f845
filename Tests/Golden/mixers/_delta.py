"""The delta family (arXiv 2406.06484, 2412.06464, 2502.10297): one step of the recurrence after the other.

Legend: B sequences, T tokens, n delta steps of a token, H key heads, G value heads, K and V widths of a head, W taps.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Sizes:
    D: int
    n: int
    H: int
    G: int
    K: int
    V: int
    W: int | None
    gate: bool
    decay: bool
    negative: bool
    activation: str

    @staticmethod
    def read(config: dict, width: int, expand: int, gate: bool, decay: bool, negative: bool, steps: int) -> "Sizes":
        heads = config["head_count"]
        size = config.get("head_size", width // heads)
        return Sizes(
            D=width, n=config.get("num_householder", steps), H=heads, G=config.get("value_head_count", heads), K=size,
            V=config.get("value_head_size", expand * size),
            W=config.get("conv_size", 4) if config.get("use_short_conv", True) else None,
            gate=config.get("use_gate", gate), decay=decay and config.get("use_forget_gate", True),
            negative=config.get("allow_neg_eigval", negative), activation=config.get("qk_activation", "silu"))


def shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    queries, keys, values = s.H * s.K, s.n * s.H * s.K, s.n * s.G * s.V
    names = {"q_proj.weight": (queries, s.D), "k_proj.weight": (keys, s.D), "v_proj.weight": (values, s.D)}
    if s.decay:
        names |= {"a_proj.weight": (s.G, s.D), "A_log": (s.G,), "dt_bias": (s.G,)}
    names["b_proj.weight"] = (s.n * s.G, s.D)
    if s.W is not None:
        channels = {"q": queries, "k": keys, "v": values}
        names |= {f"{name}_conv1d.weight": (count, 1, s.W) for name, count in channels.items()}
    if s.gate:
        names["g_proj.weight"] = (s.G * s.V, s.D)
    names |= {"o_norm.weight": (s.V,), "o_proj.weight": (s.D, s.G * s.V)}
    return {f"mixer.{name}": shape for name, shape in names.items()}


def recurrence(q, k, v, beta, g):
    """Outputs and last state for q [B, T, G, K], k [B, T, n, G, K], v [B, T, n, G, V], beta [B, T, n, G], g [B, T, G]."""
    S = torch.zeros(*q.shape[::2], q.shape[-1], v.shape[-1], dtype=q.dtype)
    outputs = []
    for t in range(q.shape[1]):
        S = S * torch.exp(g[:, t])[..., None, None]
        for j in range(k.shape[2]):
            key, value = k[:, t, j], v[:, t, j]
            error = value - torch.einsum("bgk,bgkv->bgv", key, S)
            S = S + torch.einsum("bgk,bgv->bgkv", key, beta[:, t, j, :, None] * error)
        outputs.append(torch.einsum("bgk,bgkv->bgv", q[:, t], S) / math.sqrt(q.shape[-1]))
    return torch.stack(outputs, 1), S


def unit(x):
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def forward(s: Sizes, own: dict, x: torch.Tensor):
    B, T, _ = x.shape
    carry = {}

    def weight(name):
        return own[f"mixer.{name}"]

    def branch(name, activation):
        y = x @ weight(f"{name}_proj.weight").T
        if s.W is not None:
            past = F.pad(y, (0, 0, s.W - 1, 0))
            taps = weight(f"{name}_conv1d.weight")[:, 0]
            y = sum(past[:, i : i + T] * taps[:, i] for i in range(s.W))
            carry[f"conv_{name}"] = past[:, T:].reshape(1, B, -1)
        return {"silu": F.silu, "relu": F.relu, "identity": lambda z: z}[activation](y)

    of_value_head = torch.arange(s.G) * s.H // s.G
    q = unit(branch("q", s.activation).view(B, T, s.H, s.K))[:, :, of_value_head]
    k = unit(branch("k", s.activation).view(B, T, s.n, s.H, s.K))[:, :, :, of_value_head]
    v = branch("v", "silu").view(B, T, s.n, s.G, s.V)
    beta = torch.sigmoid(x @ weight("b_proj.weight").T).view(B, T, s.n, s.G) * (2 if s.negative else 1)
    g = torch.zeros(B, T, s.G, dtype=x.dtype)
    if s.decay:
        g = -torch.exp(weight("A_log")) * F.softplus(x @ weight("a_proj.weight").T + weight("dt_bias"))
    o, S = recurrence(q, k, v, beta, g)
    carry["S"] = S.reshape(1, B, -1)
    o = o * (o.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight("o_norm.weight")
    o = o.reshape(B, T, s.G * s.V)
    if s.gate:
        o = o * F.silu(x @ weight("g_proj.weight").T)
    return o @ weight("o_proj.weight").T, carry


def check() -> None:
    """The recurrence against one linear system over all rows, and two reflections against a rotation."""
    torch.manual_seed(0)
    B, T, n, G, K, V = 2, 6, 2, 3, 4, 5
    q, k = unit(torch.randn(B, T, G, K).double()), unit(torch.randn(B, T, n, G, K).double())
    v, beta = torch.randn(B, T, n, G, V).double(), 2 * torch.rand(B, T, n, G).double()
    g = -torch.rand(B, T, G).double()
    rows = [x.transpose(2, 3).transpose(1, 2).reshape(B, G, T * n, -1) for x in (k, v, beta[..., None])]
    keys, values, strengths = rows
    total = g.cumsum(1).transpose(1, 2)
    at = torch.arange(T * n) // n
    between = torch.exp(total[:, :, at, None] - total[:, :, None, at])
    erased = strengths * torch.tril(keys @ keys.mT * between, -1)
    writes = torch.linalg.solve(torch.eye(T * n).double() + erased, strengths * values)
    seen = at[None] <= torch.arange(T)[:, None]
    read = torch.exp(total[:, :, :, None] - total[:, :, None, at])
    weights = torch.where(seen, q.transpose(1, 2) @ keys.mT * read, 0) / math.sqrt(K)
    torch.testing.assert_close((weights @ writes).transpose(1, 2), recurrence(q, k, v, beta, g)[0])

    # Unit keys 60° apart, β = 2: a turn by 120°, so that three tokens restore what the first wrote.
    turn = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]]).double()
    k = turn[None, None, :, None].repeat(1, 4, 1, 1, 1)
    v = torch.zeros(1, 4, 2, 1, 1).double()
    v[0, 0, 0, 0, 0] = 1
    q = torch.tensor([0.3, 0.7]).double().repeat(1, 4, 1, 1)
    o, _ = recurrence(q, k, v, torch.full((1, 4, 2, 1), 2.0).double(), torch.zeros(1, 4, 1).double())
    torch.testing.assert_close(o[0, 3], o[0, 0])
    assert not torch.allclose(o[0, 1], o[0, 0])
