"""Pieces of the state-space references: complex pairs, discretisation, gated outputs."""

import torch
import torch.nn.functional as F


def paired(x: torch.Tensor) -> torch.Tensor:
    """Complex numbers from pairs on the last axis."""
    return torch.view_as_complex(x.contiguous())


def state(x: torch.Tensor) -> torch.Tensor:
    """A complex state `[B, ...]` as the `[1, B, size]` of a carry."""
    return torch.view_as_real(x).reshape(1, len(x), -1)


def discretized(pole, step, rule: str):
    """a and b of `x ← a x + b u` for `x' = pole x + u`."""
    if rule == "zoh":
        a = torch.exp(step * pole)
        return a, (a - 1) / pole
    return (1 + step * pole / 2) / (1 - step * pole / 2), step / (1 - step * pole / 2)


def glu(own: dict, name: str, y: torch.Tensor) -> torch.Tensor:
    """gelu, then the linear unit whose second half gates the first."""
    value, gate = (F.gelu(y) @ own[f"{name}.weight"].T + own[f"{name}.bias"]).chunk(2, -1)
    return value * torch.sigmoid(gate)


def gated(own: dict, kind: str, y: torch.Tensor) -> torch.Tensor:
    """The activations of S5 and LRU, tanh form of gelu."""
    g = F.gelu(y, approximate="tanh")
    if kind == "gelu":
        return g
    gate = torch.sigmoid(g @ own["mixer.out2.weight"].T + own["mixer.out2.bias"])
    if kind == "full_glu":
        return (g @ own["mixer.out1.weight"].T + own["mixer.out1.bias"]) * gate
    return (g if kind == "half_glu1" else y) * gate
