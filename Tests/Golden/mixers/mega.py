"""MEGA (arXiv 2209.10655): its unit with the damped moving average, token by token.

Legend: B sequences, T tokens, D width, N averages of each channel.
"""

import torch

from mixers import _mega
from mixers._mega import draw  # noqa: F401


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    N = config.get("ndim", 16)
    cube = {name: (width, N, 1) for name in ("delta", "alpha", "beta")}
    return _mega.shapes(config, width, cube | {"gamma": (width, N), "omega": (width,)})


def output_width(config: dict, width: int) -> int:
    return width


def average(x, delta, alpha, beta, gamma, omega):
    """y [B, T, D] and the last state [B, D, N]; delta, alpha, beta, gamma [D, N]."""
    p = torch.sigmoid(delta)
    decay = 1 - p * torch.sigmoid(alpha)
    h = torch.zeros(len(x), *delta.shape, dtype=x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        h = decay * h + p * beta * x[:, t, :, None]
        outputs.append((gamma * h).sum(-1) / gamma.shape[1] ** 0.5 + omega * x[:, t])
    return torch.stack(outputs, 1), h


def forward(config: dict, own: dict, x: torch.Tensor):
    def move(normed):
        cube = [own[f"mixer.move.{name}"].squeeze(-1) for name in ("delta", "alpha", "beta")]
        y, h = average(normed, *cube, own["mixer.move.gamma"], own["mixer.move.omega"])
        return y, {"h": h.reshape(1, len(x), -1)}

    return _mega.forward(config, own, x, move)


def check() -> None:
    """The average against its kernel, and the limits of the gates."""
    torch.manual_seed(0)
    x, delta, alpha, beta, gamma = (torch.randn(s).double() for s in ((2, 6, 3), (3, 4), (3, 4), (3, 4), (3, 4)))
    omega = torch.randn(3).double()
    p, lag = torch.sigmoid(delta), torch.arange(6)
    weights = (gamma * p * beta / 2 * (1 - p * torch.sigmoid(alpha)) ** lag[:, None, None]).sum(-1)
    expected = sum(torch.cat([torch.zeros(2, s, 3).double(), x[:, : 6 - s]], 1) * weights[s] for s in range(6))
    torch.testing.assert_close(average(x, delta, alpha, beta, gamma, omega)[0], expected + omega * x)
    scores = torch.tensor([[0.0, 0.5**0.5]]).double()
    laplace = _mega.weigh("laplace", scores, torch.ones(1, 2).bool())
    torch.testing.assert_close(laplace, torch.tensor([[0.0061, 0.5]]).double(), atol=1e-4, rtol=0)
    config = {"chunk_size": 4, "zdim": 3, "hdim": 5, "ndim": 2}
    own = {name: torch.randn(shape).double() for name, shape in shapes(config, 3).items()}
    own["mixer.mx_proj.weight"][:3], own["mixer.mx_proj.bias"][:3] = 0, -1e9
    torch.testing.assert_close(forward(config, own, x)[0], x)
