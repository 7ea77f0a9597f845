"""Retention (arXiv 2307.08621), step by step. Legend as in _matrix_memory.py."""

import math

import torch

from mixers import _matrix_memory as common


def sizes(config, width):
    return common.head_sizes(config, width, expand_v=2.0)


def shapes(config, width):
    return common.frame_shapes(config, width, sizes(config, width), config.get("output_gate", True))


def output_width(config, width):
    return width


def rotated(x, theta):
    """Pairs (i, i + K/2) of x [B, T, H, K] as complex numbers, turned by t·theta^(-2i/K)."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous())
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * theta ** (-torch.arange(half, dtype=x.dtype) / half)
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([pairs.real, pairs.imag], -1)


def forward(config, own, x):
    dimensions = sizes(config, x.shape[-1])
    q, k, v, pasts = common.project(config, own, x, dimensions)
    if config.get("rotary", True):
        q, k = (rotated(y, config.get("rope_theta", 10_000)) for y in (q, k))
    decay = torch.log(1 - 2.0 ** (-5 - torch.arange(dimensions[0], dtype=x.dtype)))
    o, state = common.memory(q, k, v, decay[:, None], scale=1 / math.sqrt(dimensions[2]))
    y = common.finish(own, o, x, config.get("output_gate", True), config.get("norm_eps", 1e-5))
    # With rotary positions the state stays with its batch.
    return y, {} if config.get("rotary", True) else common.flat(S=state, **pasts)


def check():
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 9, 3, size, dtype=torch.float64) for size in (4, 4, 5))
    decay = torch.log(1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64)))
    o, _ = common.memory(q, k, v, decay[:, None])
    assert torch.allclose(o, common.unrolled(q, k, v, decay[:, None].expand(q.shape)), atol=1e-12)
    assert math.isclose(decay[0].exp().item(), 0.96875)
    # Scores depend on the distance of two tokens only.
    one = rotated(torch.ones(1, 6, 1, 4, dtype=torch.float64), 100.0)[0, :, 0]
    assert torch.allclose(one[1] @ one[3], one[3] @ one[5])
