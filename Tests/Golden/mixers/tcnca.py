"""TCNCA (arXiv 2312.05605): MEGA's unit with a stack of dilated causal convolutions in place of the average.

Legend: B sequences, T tokens, D width, n layers, K taps, f dilation.
"""

import torch
import torch.nn.functional as F

from mixers import _mega
from mixers._mega import draw  # noqa: F401


def stack(config: dict) -> list[tuple[str, int, int]]:
    """Name, taps and dilation of every layer."""
    taps, factor = config.get("tcn_kernel", 3), config.get("tcn_dilation", 2)
    return [(f"convs.{i}", taps, factor**i) for i in range(config.get("tcn_layers", 4))]


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    move = {}
    for name, taps, _ in stack(config):
        move |= {f"{name}.weight": (width, 1, taps), f"{name}.bias": (width,)}
    return _mega.shapes(config, width, move | {"omega": (width,)})


def output_width(config: dict, width: int) -> int:
    return width


def convolve(layers, y):
    """y plus what each layer adds, and the tails of their inputs; layers of (weight [D, 1, K], bias [D], dilation)."""
    tails = []
    for weight, bias, dilation in layers:
        reach, T = (weight.shape[2] - 1) * dilation, y.shape[1]
        past = F.pad(y, (0, 0, reach, 0))
        tails.append(past[:, T:])
        taps = (past[:, k * dilation : k * dilation + T] * weight[:, 0, k] for k in range(weight.shape[2]))
        y = y + F.silu(sum(taps) + bias)
    return y, tails


def forward(config: dict, own: dict, x: torch.Tensor):
    layers = [
        (own[f"mixer.move.{name}.weight"], own[f"mixer.move.{name}.bias"], dilation)
        for name, _, dilation in stack(config)
    ]

    def move(normed):
        y, tails = convolve(layers, normed)
        state = {f"conv_{i}": tail.reshape(1, len(x), -1) for i, tail in enumerate(tails)}
        return y + own["mixer.move.omega"] * normed, state

    return _mega.forward(config, own, x, move)


def check() -> None:
    """Torch's own convolution, and an impulse that is forgotten exactly at the end of the receptive field."""
    torch.manual_seed(0)
    x, layers = torch.randn(2, 20, 3).double(), []
    for dilation in (1, 2, 4):
        layers.append((torch.randn(3, 1, 3).double(), torch.randn(3).double(), dilation))
    expected = x
    for weight, bias, dilation in layers:
        padded = F.pad(expected.mT, (2 * dilation, 0))
        expected = expected + F.silu(F.conv1d(padded, weight, bias, dilation=dilation, groups=3)).mT
    torch.testing.assert_close(convolve(layers, x)[0], expected)
    changed = x.clone()
    changed[:, 2] += 1
    moved = (convolve(layers, changed)[0] - convolve(layers, x)[0]).abs().amax((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == list(range(2, 2 + 15))
