"""Mamba-2 (arXiv 2405.21060), step by step.

Legend: B sequences, T tokens, I inner width, H heads of P channels, N state size, G groups.
"""

import torch
import torch.nn.functional as F

from mixers import _matrix_memory as common


def sizes(config, width):
    inner = config.get("expand", 2) * width
    size = config.get("head_size", 64)
    return inner, inner // size, size, config.get("state_size", 128), config.get("group_count", 1)


def shapes(config, width):
    inner, heads, _, state, groups = sizes(config, width)
    channels, rows = inner + 2 * groups * state, 2 * inner + 2 * groups * state + heads
    shapes = {"mixer.in_proj.weight": (rows, width)}
    if config.get("bias", False):
        shapes["mixer.in_proj.bias"] = (rows,)
    shapes["mixer.conv1d.weight"] = (channels, 1, config.get("conv_size", 4))
    if config.get("conv_bias", True):
        shapes["mixer.conv1d.bias"] = (channels,)
    shapes |= {name: (heads,) for name in ("mixer.dt_bias", "mixer.A_log", "mixer.D")}
    if config.get("norm", True):
        shapes["mixer.norm.weight"] = (inner,)
    shapes["mixer.out_proj.weight"] = (width, inner)
    if config.get("bias", False):
        shapes["mixer.out_proj.bias"] = (width,)
    return shapes


def output_width(config, width):
    return width


def forward(config, own, x):
    inner, heads, size, states, groups = sizes(config, x.shape[-1])
    projected = F.linear(x, own["mixer.in_proj.weight"], own.get("mixer.in_proj.bias"))
    z, mixed, raw = projected.split([inner, inner + 2 * groups * states, heads], -1)
    mixed, past = common.convolved(mixed, own["mixer.conv1d.weight"], own.get("mixer.conv1d.bias"))
    values, keys, queries = mixed.split([inner, groups * states, groups * states], -1)
    step = F.softplus(raw + own["mixer.dt_bias"], threshold=50)
    step = step.clamp(config.get("dt_limit_min", 0), config.get("dt_limit_max"))
    y, state = ssm(values.unflatten(-1, (heads, size)), step, own["mixer.A_log"], keys.unflatten(-1, (groups, states)),
                   queries.unflatten(-1, (groups, states)))
    y = (y + own["mixer.D"][:, None] * values.unflatten(-1, (heads, size))).flatten(-2)
    y = gated(config, own, y, z, groups)
    return F.linear(y, own["mixer.out_proj.weight"], own.get("mixer.out_proj.bias")), common.flat(conv=past, ssm=state)


def ssm(x, step, a_log, b, c):
    """h = exp(-exp(A_log) step) h + step x B^T, y = h C; head h reads group h·G/H. Returns y and h [B, H, P, N]."""
    batch, time, heads, size = x.shape
    source = torch.arange(heads) * b.shape[2] // heads
    b, c = b[:, :, source], c[:, :, source]
    h = x.new_zeros(batch, heads, size, b.shape[-1])
    outputs = []
    for t in range(time):
        decay = (-a_log.exp() * step[:, t]).exp()
        h = decay[..., None, None] * h + (step[:, t, :, None] * x[:, t])[..., :, None] * b[:, t, :, None, :]
        outputs.append((h * c[:, t, :, None, :]).sum(-1))
    return torch.stack(outputs, 1), h


def gated(config, own, y, z, groups):
    gate = common.silu(z)
    if not config.get("norm", True):
        return y * gate
    if not config.get("norm_before_gate", False):
        y = y * gate
    y = common.rms(y.unflatten(-1, (groups, -1)), 1e-5).flatten(-2) * own["mixer.norm.weight"]
    return y * gate if config.get("norm_before_gate", False) else y


def check():
    """The recurrence as a product with a semiseparable matrix."""
    torch.manual_seed(1)
    x, step = torch.randn(2, 8, 4, 3, dtype=torch.float64), torch.rand(2, 8, 4, dtype=torch.float64)
    b, c = torch.randn(2, 8, 2, 5, dtype=torch.float64), torch.randn(2, 8, 2, 5, dtype=torch.float64)
    a_log = torch.randn(4, dtype=torch.float64)
    y, _ = ssm(x, step, a_log, b, c)
    total = (-a_log.exp() * step).cumsum(1)
    for head in range(4):
        group = head // 2
        decay = (total[:, :, None, head] - total[:, None, :, head]).exp().tril()
        matrix = decay * (c[:, :, group] @ b[:, :, group].mT) * step[:, None, :, head]
        assert torch.allclose(matrix @ x[:, :, head], y[:, :, head], atol=1e-12)
