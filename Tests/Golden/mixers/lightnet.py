"""LightNet (arXiv 2405.21022), step by step. Legend as in _matrix_memory.py."""

import math

import torch

from mixers import _matrix_memory as common


def shapes(config, width):
    channels, rank = config["head_count"] * config.get("expand_ratio", 128), config.get("gate_low_rank", 128)
    return {
        "mixer.q_proj.weight": (channels, width),
        "mixer.k_proj.weight": (channels, width),
        "mixer.v_proj.weight": (width, width),
        "mixer.g_proj.0.weight": (rank, width),
        "mixer.g_proj.1.weight": (width, rank),
        "mixer.g_norm.weight": (width,),
        "mixer.o_proj.weight": (width, width),
    }


def output_width(config, width):
    return width


def forward(config, own, x):
    heads = config["head_count"]
    q, k, v = ((x @ own[f"mixer.{name}_proj.weight"].T).unflatten(-1, (heads, -1)) for name in "qkv")
    o, state, z = additive(common.silu(q), k, v)
    gate = x @ own["mixer.g_proj.0.weight"].T @ own["mixer.g_proj.1.weight"].T
    o = common.rms((o / math.sqrt(q.shape[-1])).flatten(-2), config.get("norm_eps", 1e-6)) * own["mixer.g_norm.weight"]
    return (o * common.silu(gate)) @ own["mixer.o_proj.weight"].T, common.flat(S=state, z=z)


def additive(q, k, v):
    """S = e^(z before - z) S + e^(k - z) v^T with z the log of the running sum of e^k."""
    state, outputs, z = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1]), [], None
    for t in range(q.shape[1]):
        before = z
        z = k[:, t] if z is None else torch.logaddexp(z, k[:, t])
        if before is not None:
            state = (before - z).exp()[..., None] * state
        state = state + (k[:, t] - z).exp()[..., None] * v[:, t, :, None]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1), state, z


def check():
    """Every row of the state is a mean of the values under a causal softmax."""
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 9, 3, size, dtype=torch.float64) for size in (4, 4, 5))
    o, state, _ = additive(q, k, v)
    assert torch.allclose(state, torch.einsum("bthk,bthv->bhkv", k.softmax(1), v))
    for t in range(9):
        rows = torch.einsum("bthk,bthv->bhkv", k[:, : t + 1].softmax(1), v[:, : t + 1])
        assert torch.allclose(o[:, t], torch.einsum("bhk,bhkv->bhv", q[:, t], rows))
