"""The unit of MEGA (arXiv 2209.10655) around any `move` of the normed input; norm and residual are inside.

Legend: B sequences, T tokens, D width, Z key width, h value width, C tokens of a chunk.
"""

import math

import torch
import torch.nn.functional as F


def shapes(config: dict, D: int, move: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    C, Z, h = config["chunk_size"], config.get("zdim", 128), config.get("hdim", 2 * D)
    linear = {"v_proj": (h, D), "mx_proj": (2 * D + Z + h, D), "h_proj": (D, h)}
    names = {f"move.{name}": shape for name, shape in move.items()}
    names |= {"norm.norm.weight": (D,), "norm.norm.bias": (D,)}
    for name, shape in linear.items():
        names |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    names |= {"gamma": (2, Z), "beta": (2, Z), "rel_pos_bias.rel_pos_bias": (2 * C - 1,)}
    return {f"mixer.{name}": shape for name, shape in names.items()}


def draw(config: dict, name: str, normal):
    """Scores large enough that the weights differ, values and outputs that it shows."""
    if name in ("mixer.gamma", "mixer.beta"):
        return 2 * normal
    if name in ("mixer.v_proj.weight", "mixer.h_proj.weight"):
        return 3 * normal / math.sqrt(normal.shape[1])
    return normal if name == "mixer.rel_pos_bias.rel_pos_bias" else None


def weigh(kind: str, scores, visible):
    if kind == "softmax":
        return scores.masked_fill(~visible, -math.inf).softmax(-1)
    if kind == "laplace":
        weights = 0.5 * (1 + torch.erf((scores - math.sqrt(0.5)) / (math.sqrt(1 / (4 * math.pi)) * math.sqrt(2))))
    else:
        weights = F.relu(scores).square()
    return weights.masked_fill(~visible, 0)


def attend(kind: str, q, k, v, bias):
    """One chunk: q, k [B, L, Z], v [B, L, h], bias [2C − 1]."""
    L, C = q.shape[1], (len(bias) + 1) // 2
    i, j = torch.arange(L)[:, None], torch.arange(L)
    scale = q.shape[2] ** -0.5 if kind == "softmax" else 1 / (i + 1).to(q.dtype)
    return weigh(kind, q @ k.mT * scale + bias[C - 1 + j - i], j <= i) @ v


def forward(config: dict, own: dict, x: torch.Tensor, move):
    """`move(x̂)` gives y and a state by name."""
    B, T, D = x.shape
    C, Z, h = config["chunk_size"], config.get("zdim", 128), config.get("hdim", 2 * D)

    def linear(name, y):
        return y @ own[f"mixer.{name}.weight"].T + own[f"mixer.{name}.bias"]

    def norm(y):
        return F.layer_norm(y, (D,), own["mixer.norm.norm.weight"], own["mixer.norm.norm.bias"], 1e-5)

    prenorm = config.get("prenorm", True)
    normed = norm(x) if prenorm else x
    v = F.silu(linear("v_proj", normed))
    moved, state = move(normed)
    u, z, r, hx = linear("mx_proj", F.silu(moved)).split([D, Z, h, D], -1)
    z, r = F.silu(z), F.silu(r)
    q, k = (z * own["mixer.gamma"][i] + own["mixer.beta"][i] for i in (0, 1))
    bias = own["mixer.rel_pos_bias.rel_pos_bias"]
    kind = config.get("attention_activation", "softmax")
    o = torch.cat([attend(kind, *(y[:, s : s + C] for y in (q, k, v)), bias) for s in range(0, T, C)], 1)
    fresh = F.silu(hx + linear("h_proj", o * r))
    y = x + torch.sigmoid(u) * (fresh - x)
    return (y if prenorm else norm(y)), state
