"""Linear attention (arXiv 2006.16236) with several feature maps, step by step. Legend as in _matrix_memory.py."""

import math

import torch
import torch.nn.functional as F

from mixers import _matrix_memory as common

LAYERS = {"elementwise_product": ("layer1", "layer2"), "t2r": ("layer",), "hedgehog": ("layer",)}


def sizes(config, width):
    return common.head_sizes(config, width)


def map_shapes(config, prefix, width):
    kind = config.get("feature_map", "elementwise_product")
    shapes = {}
    for layer in LAYERS.get(kind, ()):
        shapes[f"{prefix}.{layer}.weight"] = (width, width)
        if kind != "t2r":
            shapes[f"{prefix}.{layer}.bias"] = (width,)
    return shapes


def shapes(config, width):
    dimensions = sizes(config, width)
    shapes = common.frame_shapes(config, width, dimensions, False, "norm")
    if config.get("output_norm", "rmsnorm") == "identity":
        del shapes["mixer.norm.weight"]
    shapes |= map_shapes(config, "mixer.feature_map_q", dimensions[2])
    if not config.get("tie_feature_map", False):
        shapes |= map_shapes(config, "mixer.feature_map_k", dimensions[2])
    return shapes


def output_width(config, width):
    return width


def features(kind, own, prefix, x):
    def layer(name):
        return F.linear(x, own[f"{prefix}.{name}.weight"], own.get(f"{prefix}.{name}.bias"))

    if kind == "identity":
        return x
    if kind == "elu":
        return F.elu(x) + 1
    if kind == "relu":
        return x.clamp(min=0)
    if kind == "elementwise_product":
        return layer("layer1") * layer("layer2")
    if kind == "t2r":
        return layer("layer").clamp(min=0)
    if kind == "hedgehog":
        return torch.cat([2 * layer("layer"), -2 * layer("layer")], -1).softmax(-1)
    return taylor(x)


def taylor(x):
    """All products of two channels, without use of their symmetry."""
    width = x.shape[-1]
    pairs = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2 * width)
    return torch.cat([torch.ones_like(x[..., :1]), x / width**0.25, pairs], -1)


def packed(state, width):
    """Rows of `taylor`'s state in the order 1, x_i, then x_i x_j for j >= i, with pairs i < j once, times the root of 2."""
    rows = [state[:, :, : 1 + width]]
    pairs = state[:, :, 1 + width :].unflatten(2, (width, width))
    for i in range(width):
        rows.append(pairs[:, :, i, i : i + 1])
        rows.append(pairs[:, :, i, i + 1 :] * math.sqrt(2))
    return torch.cat(rows, 2)


def forward(config, own, x):
    dimensions = sizes(config, x.shape[-1])
    q, k, v, _ = common.project(config, own, x, dimensions)
    kind = config.get("feature_map", "elementwise_product")
    key_map = "mixer.feature_map_q" if config.get("tie_feature_map", False) else "mixer.feature_map_k"
    q, k = features(kind, own, "mixer.feature_map_q", q), features(kind, own, key_map, k)
    scale = 1 if kind == "taylor" else 1 / math.sqrt(q.shape[-1])
    nothing = x.new_zeros(1)
    o, state = common.memory(q, k, v, nothing, scale=scale)
    states = {"S": state}
    if config.get("feature_map_norm", False):
        sums, z = common.memory(q, k, torch.ones_like(v[..., :1]), nothing, scale=scale)
        o = o / (sums + 1e-10)
        states["z"] = z
    if kind == "taylor":
        states = {name: packed(tensor, dimensions[2]) for name, tensor in states.items()}
    if "z" in states:
        states["z"] = states["z"][..., 0]
    if config.get("output_norm", "rmsnorm") == "identity":
        return o.flatten(-2) @ own["mixer.o_proj.weight"].T, common.flat(**states)
    return common.finish(own, o, x, False, config.get("norm_eps", 1e-5), "norm"), common.flat(**states)


def check():
    torch.manual_seed(1)
    q, k = torch.randn(2, 7, 1, 4, dtype=torch.float64), torch.randn(2, 7, 1, 4, dtype=torch.float64)
    products = torch.einsum("bihk,bjhk->bij", taylor(q), taylor(k))
    scores = torch.einsum("bihk,bjhk->bij", q, k) / 2
    assert torch.allclose(products, 1 + scores + scores.square() / 2)
    v = torch.randn(2, 7, 1, 3, dtype=torch.float64)
    o, _ = common.memory(taylor(q), taylor(k), v, q.new_zeros(1))
    assert torch.allclose(o[:, :, 0], (1 + scores + scores.square() / 2).tril() @ v[:, :, 0])
