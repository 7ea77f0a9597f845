"""S4D (arXiv 2206.11893), the recurrence of every feature's diagonal state space."""

import torch

from mixers._state_space import discretized, glu, paired, state


def count(config: dict) -> int:
    return config.get("d_state", 64) // 2


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    n = count(config)
    return {
        "mixer.kernel.log_dt": (width,),
        "mixer.kernel.C": (width, n, 2),
        "mixer.kernel.log_A_real": (width, n),
        "mixer.kernel.A_imag": (width, n),
        "mixer.D": (width,),
        "mixer.output_linear.0.weight": (2 * width, width),
        "mixer.output_linear.0.bias": (2 * width,),
    }


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """Steps and frequencies that differ from state to state."""
    if name == "mixer.kernel.A_imag":
        return 3 * normal
    return normal - 1 if name == "mixer.kernel.log_dt" else None


def coefficients(config: dict, own: dict):
    pole = torch.complex(-torch.exp(own["mixer.kernel.log_A_real"]), own["mixer.kernel.A_imag"])
    return discretized(pole, torch.exp(own["mixer.kernel.log_dt"])[:, None], config.get("disc", "zoh"))


def scan(config: dict, own: dict, u: torch.Tensor):
    a, b = coefficients(config, own)
    c = paired(own["mixer.kernel.C"])
    x = torch.zeros(len(u), *a.shape, dtype=a.dtype)
    ys = []
    for t in range(u.shape[1]):
        x = a * x + b * u[:, t, :, None]
        ys.append(2 * (c * x).sum(-1).real + own["mixer.D"] * u[:, t])
    return torch.stack(ys, 1), x


def forward(config: dict, own: dict, u: torch.Tensor):
    y, x = scan(config, own, u)
    return glu(own, "mixer.output_linear.0", y), {"x": state(x)}


def check() -> None:
    """The recurrence against the convolution with `2 Re Σ C b a^l`."""
    torch.manual_seed(0)
    for rule in ["zoh", "bilinear"]:
        config = {"d_state": 6, "disc": rule}
        own = {name: 0.5 * torch.randn(shape).double() for name, shape in shapes(config, 3).items()}
        u = torch.randn(2, 9, 3).double()
        a, b = coefficients(config, own)
        lag = torch.arange(9)[:, None, None]
        kernel = 2 * (paired(own["mixer.kernel.C"]) * b * a**lag).sum(-1).real  # [T, D]
        kernel[0] += own["mixer.D"]
        expected = torch.stack([(kernel[: t + 1].flip(0) * u[:, : t + 1]).sum(1) for t in range(9)], 1)
        assert torch.allclose(scan(config, own, u)[0], expected, atol=1e-12)
