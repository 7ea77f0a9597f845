"""Gated DeltaProduct (arXiv 2502.10297): decay first, then several delta steps."""

import torch

from mixers import _delta
from mixers._delta import check  # noqa: F401


def sizes(config: dict, width: int) -> _delta.Sizes:
    return _delta.Sizes.read(config, width, expand=2, gate=True, decay=True, negative=True, steps=2)


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    return _delta.shapes(sizes(config, width))


def output_width(config: dict, width: int) -> int:
    return width


def forward(config: dict, own: dict, x: torch.Tensor):
    return _delta.forward(sizes(config, x.shape[2]), own, x)
