"""Legendre memory unit (Voelker, Kajić, Eliasmith 2019), its three equations one step after the other."""

import math

import torch


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    hidden, memory = config.get("hidden_size", width), config["memory_size"]
    return {
        "mixer.e_x": (1, width),
        "mixer.e_h": (1, hidden),
        "mixer.e_m": (1, memory),
        "mixer.W_x": (hidden, width),
        "mixer.W_h": (hidden, hidden),
        "mixer.W_m": (hidden, memory),
    }


def output_width(config: dict, width: int) -> int:
    return config.get("hidden_size", width)


def system(size: int, window: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ā and B̄: the zero-order hold of the delay system over one step."""
    block = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            block[i, j] = (2 * i + 1) / window * (-1 if i < j else (-1.0) ** (i - j + 1))
        block[i, size] = (2 * i + 1) / window * (-1.0) ** i
    held = torch.linalg.matrix_exp(block)
    return held[:size, :size], held[:size, size]


def forward(config: dict, own: dict, x: torch.Tensor):
    A, B = (table.to(x.dtype) for table in system(config["memory_size"], config["theta"]))
    h = torch.zeros(len(x), own["mixer.W_h"].shape[0], dtype=x.dtype)
    m = torch.zeros(len(x), len(B), dtype=x.dtype)
    hs = []
    for t in range(x.shape[1]):
        u = x[:, t] @ own["mixer.e_x"].T + h @ own["mixer.e_h"].T + m @ own["mixer.e_m"].T
        m = m @ A.T + u * B
        h = torch.tanh(x[:, t] @ own["mixer.W_x"].T + h @ own["mixer.W_h"].T + m @ own["mixer.W_m"].T)
        hs.append(h)
    return torch.stack(hs, 1), {"h": h[None], "m": m[None]}


def check() -> None:
    """The memory of a slow sine, read out with Legendre polynomials, is the sine of earlier."""
    A, B = system(12, 40)
    m = torch.zeros(12, dtype=torch.float64)
    for t in range(300):
        m = A @ m + B * math.sin(0.05 * (t + 0.5))
    for delay in [0.25, 0.5, 0.75]:
        x = 2 * delay - 1
        polynomials = [1.0, x]
        for n in range(1, 11):
            polynomials.append(((2 * n + 1) * x * polynomials[n] - n * polynomials[n - 1]) / (n + 1))
        read = sum(p * float(c) for p, c in zip(polynomials, m))
        assert abs(read - math.sin(0.05 * (300 - delay * 40))) < 1e-3
