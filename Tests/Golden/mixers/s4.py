"""S4 (arXiv 2111.00396): the bilinear step of `A = diag(Λ) − P P*`, solved densely on the conjugate-extended spectrum."""

import torch
import torch.nn.functional as F

from mixers._state_space import glu, paired, state


def count(config: dict) -> int:
    return config.get("d_state", 64) // 2


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    n, copies = count(config), config.get("n_ssm", 1)
    return {
        "mixer.kernel.inv_dt": (width, 1),
        "mixer.kernel.A_real": (copies, n),
        "mixer.kernel.A_imag": (copies, n),
        "mixer.kernel.B": (1, copies, n, 2),
        "mixer.kernel.P": (1, copies, n, 2),
        "mixer.kernel.C": (1, width, n, 2),
        "mixer.D": (1, width),
        "mixer.output_linear.0.weight": (2 * width, width),
        "mixer.output_linear.0.bias": (2 * width,),
    }


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """Frequencies and steps that differ from state to state."""
    if name == "mixer.kernel.A_imag":
        return 3 * normal
    return normal - 1 if name == "mixer.kernel.inv_dt" else None


def extended(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.conj()], -1)


def scan(config: dict, own: dict, u: torch.Tensor):
    n, width = count(config), u.shape[2]
    copy = torch.arange(width) % config.get("n_ssm", 1)
    pole = torch.complex(-torch.exp(own["mixer.kernel.A_real"]), -own["mixer.kernel.A_imag"])[copy]
    B, P = (paired(own[f"mixer.kernel.{name}"][0])[copy] for name in "BP")
    raw = own["mixer.kernel.inv_dt"][:, 0]
    step = F.softplus(raw) if config.get("dt_transform", "exp") == "softplus" else torch.exp(raw)
    P = extended(P)
    A = torch.diag_embed(extended(pole)) - P[:, :, None] * P.conj()[:, None]
    identity = torch.eye(2 * n, dtype=A.dtype)
    half = step[:, None, None] / 2 * A
    solved = torch.linalg.inv(identity - half)
    transition, inputs = solved @ (identity + half), step[:, None] * (solved @ extended(B)[..., None])[..., 0]
    c = extended(paired(own["mixer.kernel.C"][0]))
    x = torch.zeros(len(u), width, 2 * n, dtype=A.dtype)
    ys = []
    for t in range(u.shape[1]):
        x = torch.einsum("hij,bhj->bhi", transition, x) + inputs * u[:, t, :, None]
        ys.append((c * x).sum(-1).real + own["mixer.D"][0] * u[:, t])
    return torch.stack(ys, 1), x[..., :n]


def forward(config: dict, own: dict, u: torch.Tensor):
    y, x = scan(config, own, u)
    return glu(own, "mixer.output_linear.0", y), {"x": state(x)}


def check() -> None:
    """HiPPO-LegS in the real basis of its definition gives the same outputs as its eigenbasis."""
    torch.manual_seed(0)
    N, T = 8, 11
    n = torch.arange(N).double()
    root = (2 * n + 1).sqrt()
    A = -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1)
    P = (n + 0.5).sqrt()
    values, V = torch.linalg.eigh(-1j * (A + P[:, None] * P + 0.5 * torch.eye(N)))
    V = V[:, : N // 2]
    c = torch.randn(N).double()

    def pairs(x):
        return torch.view_as_real(x)[None, None]

    own = {
        "mixer.kernel.inv_dt": torch.full((1, 1), -2.0).double(),
        "mixer.kernel.A_real": torch.full((1, N // 2), 0.5).double().log(),
        "mixer.kernel.A_imag": -values[None, : N // 2],
        "mixer.kernel.B": pairs(V.conj().T @ root.to(V.dtype)),
        "mixer.kernel.P": pairs(V.conj().T @ P.to(V.dtype)),
        "mixer.kernel.C": pairs(c.to(V.dtype) @ V),
        "mixer.D": torch.zeros(1, 1).double(),
    }
    u = torch.randn(1, T, 1).double()
    half = torch.exp(torch.tensor(-2.0).double()) / 2 * A
    solved = torch.linalg.inv(torch.eye(N) - half)
    x, expected = torch.zeros(N).double(), []
    for t in range(T):
        x = solved @ ((torch.eye(N) + half) @ x + torch.exp(torch.tensor(-2.0).double()) * root * u[0, t, 0])
        expected.append(c @ x)
    assert torch.allclose(scan({"d_state": N}, own, u)[0][0, :, 0], torch.stack(expected), atol=1e-9)
