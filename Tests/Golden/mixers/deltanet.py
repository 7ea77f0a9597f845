"""DeltaNet (arXiv 2406.06484): the delta rule without decay."""

import torch

from mixers import _delta
from mixers._delta import check  # noqa: F401


def sizes(config: dict, width: int) -> _delta.Sizes:
    return _delta.Sizes.read(config, width, expand=1, gate=False, decay=False, negative=False, steps=1)


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    return _delta.shapes(sizes(config, width))


def output_width(config: dict, width: int) -> int:
    return width


def forward(config: dict, own: dict, x: torch.Tensor):
    return _delta.forward(sizes(config, x.shape[2]), own, x)
