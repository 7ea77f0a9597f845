"""Hydra (arXiv 2407.09941): Mamba-2 from both sides, step by step. Legend as in mamba2.py."""

import torch
import torch.nn.functional as F

from mixers import _matrix_memory as common
from mixers import mamba2


def sizes(config, width):
    inner = config.get("expand", 2) * width
    size = config.get("head_size", 64)
    return inner, inner // size, size, config.get("state_size", 64), config.get("group_count", 1)


def shapes(config, width):
    inner, heads, _, states, groups = sizes(config, width)
    channels = inner + 4 * groups * states
    return {
        "mixer.in_proj.weight": (inner + channels + 2 * heads, width),
        "mixer.conv1d.weight": (channels, 1, config.get("conv_size", 7)),
        "mixer.conv1d.bias": (channels,),
        "mixer.dt_bias": (heads,),
        "mixer.A_log": (heads,),
        "mixer.D": (heads,),
        "mixer.fc_D.weight": (heads, inner),
        "mixer.norm.weight": (inner,),
        "mixer.out_proj.weight": (width, inner),
    }


def output_width(config, width):
    return width


def is_causal(config):
    return False


def forward(config, own, x):
    inner, heads, size, states, groups = sizes(config, x.shape[-1])
    channels, taps = inner + 4 * groups * states, config.get("conv_size", 7)
    z, mixed, steps = (x @ own["mixer.in_proj.weight"].T).split([inner, channels, 2 * heads], -1)
    mixed = F.conv1d(mixed.mT, own["mixer.conv1d.weight"], own["mixer.conv1d.bias"], padding=taps // 2, groups=channels)
    parts = common.silu(mixed.mT).split([inner] + 4 * [groups * states], -1)
    values = parts[0].unflatten(-1, (heads, size))
    b_on, c_on, b_back, c_back = (part.unflatten(-1, (groups, states)) for part in parts[1:])
    on, back = F.softplus(steps.unflatten(-1, (2, heads)) + own["mixer.dt_bias"], threshold=50).unbind(-2)
    y = shifted(mamba2.ssm(values, on, own["mixer.A_log"], b_on, c_on)[0])
    reverse = [part.flip(1) for part in (values, back, b_back, c_back)]
    y = y + shifted(mamba2.ssm(reverse[0], reverse[1], own["mixer.A_log"], *reverse[2:])[0]).flip(1)
    diagonal = parts[0] @ own["mixer.fc_D.weight"].T + own["mixer.D"]
    y = (y + diagonal[..., None] * values).flatten(-2)
    y = common.rms(y, 1e-5) * own["mixer.norm.weight"] * common.silu(z)
    return y @ own["mixer.out_proj.weight"].T, {}


def shifted(y):
    """One token onwards: what a token sees ends before it."""
    return F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0))


def check():
    """Reversed time with the directions exchanged changes nothing but the order of the outputs."""
    torch.manual_seed(1)
    config, width = {"head_size": 4, "state_size": 3}, 4
    own = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes(config, width).items()}
    weight = own["mixer.conv1d.weight"]
    own["mixer.conv1d.weight"] = weight + weight.flip(-1)
    x = torch.randn(2, 9, width, dtype=torch.float64)
    rows = list(own["mixer.in_proj.weight"].split([8, 8, 3, 3, 3, 3, 2, 2]))
    swapped = [rows[i] for i in (0, 1, 4, 5, 2, 3, 7, 6)]

    def conv(tensor):
        return torch.cat([tensor.split([8, 3, 3, 3, 3])[i] for i in (0, 3, 4, 1, 2)])

    other = own | {"mixer.in_proj.weight": torch.cat(swapped)}
    other |= {name: conv(own[name]) for name in ("mixer.conv1d.weight", "mixer.conv1d.bias")}
    assert torch.allclose(forward(config, own, x)[0], forward(config, other, x.flip(1))[0].flip(1))
