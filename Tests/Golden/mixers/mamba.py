"""Mamba (arXiv 2312.00752), written from the paper's recurrence: one step after the other, all states at once.

Legend: B sequences, T tokens, D width, C channels, N states of each, K taps, r rank of the time step.
"""

import math

import torch
import torch.nn.functional as F


def sizes(config: dict, width: int) -> tuple[int, int, int, int]:
    """C, N, K and r."""
    return (
        config.get("expand", 2) * width,
        config.get("d_state", 16),
        config.get("d_conv", 4),
        config.get("dt_rank", math.ceil(width / 16)),
    )


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    C, N, K, r = sizes(config, width)
    bias = {"mixer.conv1d.bias": (C,)} if config.get("conv_bias", True) else {}
    return {
        "mixer.in_proj.weight": (2 * C, width),
        "mixer.conv1d.weight": (C, 1, K),
        **bias,
        "mixer.x_proj.weight": (r + 2 * N, C),
        "mixer.dt_proj.weight": (C, r),
        "mixer.dt_proj.bias": (C,),
        "mixer.A_log": (C, N),
        "mixer.D": (C,),
        "mixer.out_proj.weight": (width, C),
    }


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """Decay rates from well below to well above one step, where the usual rule would make them alike."""
    return normal if name == "mixer.A_log" else None


def scan(delta, A, inputs, outputs, x):
    """`y_t = Σ_n C_n h_n` of `h = e^{ΔA} h + Δ x B`, and the last state. delta, x [B, T, C]; inputs, outputs [B, T, N]."""
    h = torch.zeros(*x.shape[::2], A.shape[1], dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * inputs[:, t, None]
        ys.append((h * outputs[:, t, None]).sum(-1))
    return torch.stack(ys, 1), h


def forward(config: dict, own: dict, u: torch.Tensor):
    C, N, K, r = sizes(config, u.shape[2])
    raw, z = (u @ own["mixer.in_proj.weight"].T).split(C, -1)
    past = F.pad(raw, (0, 0, K - 1, 0))
    taps = own["mixer.conv1d.weight"][:, 0]
    x = sum(past[:, k : k + u.shape[1]] * taps[:, k] for k in range(K)) + own.get("mixer.conv1d.bias", 0)
    x = F.silu(x)
    low_rank, inputs, outputs = (x @ own["mixer.x_proj.weight"].T).split([r, N, N], -1)
    delta = F.softplus(low_rank @ own["mixer.dt_proj.weight"].T + own["mixer.dt_proj.bias"])
    y, h = scan(delta, -torch.exp(own["mixer.A_log"]), inputs, outputs, x)
    y = (y + own["mixer.D"] * x) * F.silu(z)
    carry = {"conv": past[:, -(K - 1) :].reshape(1, len(u), -1), "ssm": h.reshape(1, len(u), -1)}
    return y @ own["mixer.out_proj.weight"].T, carry


def check() -> None:
    """The recurrence against its unrolled sum, `y_t = Σ_s C_t · exp(A Σ_{s<j≤t} Δ_j) Δ_s x_s B_s`."""
    torch.manual_seed(0)
    B, T, C, N = 2, 7, 3, 4
    delta, x = torch.rand(B, T, C).double(), torch.randn(B, T, C).double()
    A, inputs, outputs = -torch.rand(C, N).double(), torch.randn(B, T, N).double(), torch.randn(B, T, N).double()
    total = delta.cumsum(1)
    weight = torch.exp((total[:, :, None] - total[:, None])[..., None] * A)  # [B, t, s, C, N]
    weight = weight * torch.tril(torch.ones(T, T).double())[None, :, :, None, None]
    expected = torch.einsum("btscn,bsc,bsn,btn->btc", weight, delta * x, inputs, outputs)
    assert torch.allclose(scan(delta, A, inputs, outputs, x)[0], expected, atol=1e-12)
