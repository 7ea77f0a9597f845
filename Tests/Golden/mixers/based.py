"""Based (arXiv 2402.18668), step by step. Legend as in _matrix_memory.py."""

import torch

from mixers import _matrix_memory as common
from mixers import linear_attention


def shapes(config, width):
    channels = config["head_count"] * config.get("feature_dim", 16)
    rows = {"proj_q": channels, "proj_k": channels, "proj_v": width, "out_proj": width}
    return {f"mixer.{name}.weight": (count, width) for name, count in rows.items()}


def output_width(config, width):
    return width


def forward(config, own, x):
    heads, width = config["head_count"], config.get("feature_dim", 16)
    q, k, v = ((x @ own[f"mixer.proj_{name}.weight"].T).unflatten(-1, (heads, -1)) for name in "qkv")
    q, k = linear_attention.taylor(q), linear_attention.taylor(k)
    nothing = x.new_zeros(1)
    o, state = common.memory(q, k, v, nothing)
    sums, z = common.memory(q, k, torch.ones_like(v[..., :1]), nothing)
    y = (o / (sums + config.get("eps", 1e-12))).flatten(-2) @ own["mixer.out_proj.weight"].T
    state, z = linear_attention.packed(state, width), linear_attention.packed(z, width)[..., 0]
    return y, common.flat(S=state, z=z)


def check():
    linear_attention.check()
