"""Gated linear attention (arXiv 2312.06635), step by step. Legend as in _matrix_memory.py."""

import math

import torch
import torch.nn.functional as F

from mixers import _matrix_memory as common


def sizes(config, width):
    return common.head_sizes(config, width, expand_k=0.5)


def shapes(config, width):
    heads, groups, key, _ = sizes(config, width)
    shapes = common.frame_shapes(config, width, sizes(config, width), config.get("output_gate", True))
    if config.get("gate", "vector") == "scalar":
        return shapes | {"mixer.gk_proj.weight": (heads, width), "mixer.gk_proj.bias": (heads,)}
    rank = config.get("gate_low_rank", 16)
    return shapes | {
        "mixer.gk_proj.0.weight": (rank, width),
        "mixer.gk_proj.1.weight": (groups * key, rank),
        "mixer.gk_proj.1.bias": (groups * key,),
    }


def output_width(config, width):
    return width


def forward(config, own, x):
    heads, groups, key, value = sizes(config, x.shape[-1])
    q, k, v, pasts = common.project(config, own, x, (heads, groups, key, value))
    if config.get("gate", "vector") == "scalar":
        logits = F.linear(x, own["mixer.gk_proj.weight"], own["mixer.gk_proj.bias"])[..., None]
    else:
        low = x @ own["mixer.gk_proj.0.weight"].T
        logits = F.linear(low, own["mixer.gk_proj.1.weight"], own["mixer.gk_proj.1.bias"])
        logits = logits.unflatten(-1, (groups, key)).repeat_interleave(heads // groups, 2)
    decay = F.logsigmoid(logits) / config.get("gate_logit_normalizer", 16)
    if "clamp_min" in config:
        decay = decay.clamp(min=config["clamp_min"])
    o, state = common.memory(q, k, v, decay, scale=1 / math.sqrt(key))
    y = common.finish(own, o, x, config.get("output_gate", True), config.get("norm_eps", 1e-5))
    return y, common.flat(S=state, **pasts)


def check():
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 9, 3, size, dtype=torch.float64) for size in (4, 4, 5))
    decay = -torch.rand(2, 9, 3, 4, dtype=torch.float64)
    o, state = common.memory(q, k, v, decay)
    assert torch.allclose(o, common.unrolled(q, k, v, decay), atol=1e-12)
    # A gate of 0 leaves nothing but the token itself.
    o, _ = common.memory(q, k, v, torch.full_like(decay, -math.inf))
    assert torch.allclose(o, (q * k).sum(-1, keepdim=True) * v)
    assert math.isclose(math.exp(F.logsigmoid(torch.tensor(0.0, dtype=torch.float64)).item() / 16), 0.957603, rel_tol=1e-6)
