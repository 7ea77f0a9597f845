"""LSSL (arXiv 2110.13985): the bilinear step of `A = −diag(pl) (T⁻¹ + diag(c)) diag(pr)`, solved densely."""

import torch
import torch.nn.functional as F

VECTORS = ["dl", "d", "du", "pl", "pr", "c", "b"]


def count(config: dict) -> int:
    return config.get("d_state", 256)


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    n, learning = count(config), config.get("learn", 1)
    transition = {f"mixer.transition.{name}": (width, n) if learning == 2 else (n,) for name in VECTORS}
    return {
        "mixer.log_dt": (width,),
        "mixer.C": (width, 1, n),
        **(transition if learning else {}),
        "mixer.D": (width, 1),
        "mixer.output_linear.weight": (width, width),
        "mixer.output_linear.bias": (width,),
    }


def output_width(config: dict, width: int) -> int:
    return width


def hippo(size: int) -> dict[str, torch.Tensor]:
    n = torch.arange(size).double()
    root, one = (2 * n + 1).sqrt(), torch.ones(size).double()
    return {"dl": -one, "d": one, "du": 0 * one, "pl": root, "pr": root, "c": -n / (2 * n + 1), "b": one}


def draw(config: dict, name: str, normal):
    """HiPPO with noise: the part above the diagonal starts at zero and is to be seen, too."""
    field = name.split(".")[-1]
    if name == "mixer.log_dt":
        return normal - 1
    if ".transition." not in name:
        return None
    return hippo(count(config))[field].numpy() + 0.1 * normal


def system(own: dict, config: dict, dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A `[.., N, N]` and B `[.., N]`."""
    if config.get("learn", 1):
        dl, d, du, pl, pr, c, b = (own[f"mixer.transition.{name}"] for name in VECTORS)
    else:
        dl, d, du, pl, pr, c, b = (hippo(count(config))[name].to(dtype) for name in VECTORS)
    tridiagonal = torch.diag_embed(d) + torch.diag_embed(dl[..., 1:], -1) + torch.diag_embed(du[..., :-1], 1)
    return -pl[..., None] * (torch.linalg.inv(tridiagonal) + torch.diag_embed(c)) * pr[..., None, :], pl * b


def forward(config: dict, own: dict, u: torch.Tensor):
    A, B = system(own, config, u.dtype)
    width, n = u.shape[2], count(config)
    A, B = A.expand(width, n, n), B.expand(width, n)
    step, identity = torch.exp(own["mixer.log_dt"]), torch.eye(n, dtype=u.dtype)
    half = step[:, None, None] / 2 * A
    solved = torch.linalg.inv(identity - half)
    transition, inputs = solved @ (identity + half), step[:, None] * (solved @ B[..., None])[..., 0]
    x, ys = torch.zeros(len(u), width, n, dtype=u.dtype), []
    for t in range(u.shape[1]):
        x = torch.einsum("hij,bhj->bhi", transition, x) + inputs * u[:, t, :, None]
        ys.append((own["mixer.C"][:, 0] * x).sum(-1) + own["mixer.D"][:, 0] * u[:, t])
    y = F.gelu(torch.stack(ys, 1)) @ own["mixer.output_linear.weight"].T + own["mixer.output_linear.bias"]
    return y, {"x": x.reshape(1, len(u), -1)}


def check() -> None:
    """The initial transition is HiPPO-LegS as it is defined."""
    n = torch.arange(8).double()
    root = (2 * n + 1).sqrt()
    A, B = system({}, {"learn": 0, "d_state": 8}, torch.float64)
    expected = -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1)
    assert torch.allclose(A, expected, atol=1e-12) and torch.allclose(B, root, atol=1e-12)
