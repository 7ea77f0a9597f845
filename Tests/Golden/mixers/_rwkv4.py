"""What both references of RWKV-4 share."""

import torch


def shifted(x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """`μ x_t + (1 − μ) x_{t−1}`, nothing before the first token."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return x * mix + before * (1 - mix)
