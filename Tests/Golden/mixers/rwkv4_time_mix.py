"""The time mix of RWKV-4 (arXiv 2305.13048): its recurrence as written there, exponentials unscaled."""

import torch

from mixers._rwkv4 import shifted


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    mixes = {f"mixer.time_mix_{name}": (1, 1, width) for name in "kvr"}
    matrices = {f"mixer.{name}.weight": (width, width) for name in ["key", "value", "receptance", "output"]}
    return {"mixer.time_decay": (width,), "mixer.time_first": (width,), **mixes, **matrices}


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """Mixes inside and a little outside of 0 … 1, decays from slow to fast."""
    if name.startswith("mixer.time_mix"):
        return 0.5 + 0.3 * normal
    return normal - 1 if name == "mixer.time_decay" else None


def weighted_average(w, u, k, v):
    """y, and the last sums P and Q with the exponent o that a scaled form of them has."""
    P = Q = torch.zeros_like(k[:, 0])
    o = torch.full_like(P, -1e38)
    ys = []
    for t in range(k.shape[1]):
        current = torch.exp(u + k[:, t])
        ys.append((P + current * v[:, t]) / (Q + current))
        P, Q = torch.exp(w) * P + torch.exp(k[:, t]) * v[:, t], torch.exp(w) * Q + torch.exp(k[:, t])
        o = torch.maximum(w + o, k[:, t])
    return torch.stack(ys, 1), P, Q, o


def forward(config: dict, own: dict, x: torch.Tensor):
    k, v, r = (
        shifted(x, own[f"mixer.time_mix_{name[0]}"]) @ own[f"mixer.{name}.weight"].T
        for name in ["key", "value", "receptance"]
    )
    y, P, Q, o = weighted_average(-torch.exp(own["mixer.time_decay"]), own["mixer.time_first"], k, v)
    carry = {"shift": x[:, -1], "p": P * torch.exp(-o), "q": Q * torch.exp(-o), "o": o}
    out = (torch.sigmoid(r) * y) @ own["mixer.output.weight"].T
    return out, {name: tensor[None] for name, tensor in carry.items()}


def check() -> None:
    """The recurrence against the sum over all earlier tokens with weights `e^{(t−1−s) w + k_s}`."""
    torch.manual_seed(0)
    T = 9
    k, v = torch.randn(2, T, 3).double(), torch.randn(2, T, 3).double()
    w, u = -torch.rand(3).double(), torch.randn(3).double()
    distance = torch.arange(T)[:, None] - torch.arange(T)
    exponent = torch.where(distance[..., None] == 0, u, (distance[..., None] - 1) * w)
    weight = torch.exp(exponent[None] + k[:, None]) * (distance >= 0)[None, :, :, None]
    expected = (weight * v[:, None]).sum(2) / weight.sum(2)
    assert torch.allclose(weighted_average(w, u, k, v)[0], expected, atol=1e-12)
