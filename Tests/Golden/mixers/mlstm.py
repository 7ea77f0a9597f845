"""mLSTM (arXiv 2405.04517; block of 2503.13427), step by step.

Legend: B sequences, T tokens, H heads, K key width, V value width.
"""

import math

import torch
import torch.nn.functional as F

from mixers import _matrix_memory as common


def sizes(config, width):
    heads = config["head_count"]
    return heads, int(config.get("qk_dim_factor", 0.5) * width), int(config.get("v_dim_factor", 1.0) * width)


def shapes(config, width):
    heads, keys, values = sizes(config, width)
    rows = {"q": keys, "k": keys, "v": values, "ogate_preact": values, "igate_preact": heads, "fgate_preact": heads}
    shapes = {}
    for name, count in rows.items():
        shapes[f"mixer.{name}.weight"] = (count, width)
        if config.get("bias", False) or name in ("igate_preact", "fgate_preact"):
            shapes[f"mixer.{name}.bias"] = (count,)
    shapes |= {"mixer.multihead_norm.weight": (values,), "mixer.out_proj.weight": (width, values)}
    if config.get("bias", False):
        shapes["mixer.out_proj.bias"] = (width,)
    return shapes


def output_width(config, width):
    return width


def draw(config, name, normal):
    # Input gates on both sides of the floor, forget gates that remember.
    if name == "mixer.fgate_preact.bias":
        return 2 + normal
    return 2 * normal / math.sqrt(normal.shape[-1]) if name == "mixer.igate_preact.weight" else None


def forward(config, own, x):
    heads, keys, values = sizes(config, x.shape[-1])

    def linear(name):
        return F.linear(x, own[f"mixer.{name}.weight"], own.get(f"mixer.{name}.bias"))

    cap = config.get("gate_soft_cap", 15)
    i, f = (cap * torch.tanh(linear(name) / cap) for name in ("igate_preact", "fgate_preact"))
    q, k, v = (linear(name).unflatten(-1, (heads, -1)) for name in "qkv")
    if config.get("input_gate", "exp") == "exp":
        h, state = exponential(q, k, v, i, f, config.get("eps", 1e-6))
    else:
        h, state = logistic(q, k, v, i, f, config.get("normalize", True), config.get("eps", 1e-6))
    centred = h - h.mean(-1, keepdim=True)
    h = common.rms(centred, config.get("norm_eps", 1e-6)).flatten(-2) * own["mixer.multihead_norm.weight"]
    y = torch.sigmoid(linear("ogate_preact")) * h
    return F.linear(y, own["mixer.out_proj.weight"], own.get("mixer.out_proj.bias")), common.flat(**state)


def exponential(q, k, v, i, f, epsilon):
    batch, time, heads, width = q.shape
    c, n = q.new_zeros(batch, heads, width, v.shape[-1]), q.new_zeros(batch, heads, width)
    m = q.new_zeros(batch, heads)
    outputs = []
    for t in range(time):
        kept = F.logsigmoid(f[:, t]) + m
        m = torch.maximum(kept, i[:, t])
        keep, write = (kept - m).exp(), (i[:, t] - m).exp()
        c = keep[..., None, None] * c + (write[..., None] * k[:, t])[..., :, None] * v[:, t, :, None, :]
        n = keep[..., None] * n + write[..., None] * k[:, t]
        query = q[:, t] / math.sqrt(width)
        size = torch.maximum((query * n).sum(-1).abs(), (-m).exp()) + epsilon
        outputs.append(torch.einsum("bhk,bhkv->bhv", query, c) / size[..., None])
    return torch.stack(outputs, 1), {"C": c, "n": n, "m": m}


def logistic(q, k, v, i, f, normalize, epsilon):
    scale = 1 / math.sqrt(q.shape[-1])
    decay = F.logsigmoid(f)[..., None]
    h, c = common.memory(q, k, v, decay, F.logsigmoid(i), scale)
    if not normalize:
        return h, {"C": c}
    size, n = common.memory(q, k, torch.ones_like(v[..., :1]), decay, F.logsigmoid(i), scale)
    return h / (size.abs().clamp(min=1) + epsilon), {"C": c, "n": n[..., 0]}


def check():
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 7, 3, size, dtype=torch.float64) for size in (4, 4, 5))
    i, f = (torch.randn(2, 7, 3, dtype=torch.float64) for _ in range(2))
    # Without the running maximum: gates in plain exponentials.
    h, _ = exponential(q, k, v, i, f, 0)
    plain, _ = common.memory(q, k, v, F.logsigmoid(f)[..., None], i, 0.5)
    size, _ = common.memory(q, k, torch.ones_like(v[..., :1]), F.logsigmoid(f)[..., None], i, 0.5)
    assert torch.allclose(h, plain / size.abs().clamp(min=1), atol=1e-12)
    # q = k = 1, nothing forgotten: the running mean.
    one = torch.ones(1, 6, 1, 1, dtype=torch.float64)
    values = torch.randn(1, 6, 1, 2, dtype=torch.float64)
    h, _ = exponential(one, one, values, 0 * one[..., 0], 100 * one[..., 0], 0)
    assert torch.allclose(h, values.cumsum(1) / torch.arange(1, 7)[:, None, None], atol=1e-12)
