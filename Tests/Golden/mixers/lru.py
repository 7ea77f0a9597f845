"""Linear recurrent unit (arXiv 2303.06349), step by step."""

import torch

from mixers._state_space import gated, state


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    N = config.get("d_hidden", width)
    return {
        "mixer.nu_log": (N,),
        "mixer.theta_log": (N,),
        "mixer.gamma_log": (N,),
        "mixer.B_re": (N, width),
        "mixer.B_im": (N, width),
        "mixer.C_re": (width, N),
        "mixer.C_im": (width, N),
        "mixer.D": (width,),
        "mixer.out1.weight": (width, width),
        "mixer.out1.bias": (width,),
        "mixer.out2.weight": (width, width),
        "mixer.out2.bias": (width,),
    }


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """Moduli from 0.2 to 0.99."""
    return normal - 1.5 if name == "mixer.nu_log" else None


def scan(own: dict, u: torch.Tensor):
    value = torch.exp(torch.complex(-torch.exp(own["mixer.nu_log"]), torch.exp(own["mixer.theta_log"])))
    B = torch.exp(own["mixer.gamma_log"])[:, None] * torch.complex(own["mixer.B_re"], own["mixer.B_im"])
    C = torch.complex(own["mixer.C_re"], own["mixer.C_im"])
    x = torch.zeros(len(u), len(value), dtype=value.dtype)
    ys = []
    for t in range(u.shape[1]):
        x = value * x + u[:, t].to(value.dtype) @ B.T
        ys.append((x @ C.T).real + own["mixer.D"] * u[:, t])
    return torch.stack(ys, 1), x


def forward(config: dict, own: dict, u: torch.Tensor):
    y, x = scan(own, u)
    return gated(own, "full_glu", y), {"x": state(x)}


def check() -> None:
    """With γ from its definition, white noise keeps its size: E|x_n|² → ‖row n of B‖²."""
    torch.manual_seed(0)
    own = {name: torch.randn(shape).double() for name, shape in shapes({"d_hidden": 3}, 2).items()}
    own["mixer.nu_log"] = torch.log(torch.tensor([0.3, 0.1, 0.5]).double())
    own["mixer.gamma_log"] = 0.5 * torch.log(1 - torch.exp(-2 * torch.exp(own["mixer.nu_log"])))
    x = scan(own, torch.randn(40_000, 40, 2).double())[1]
    expected = own["mixer.B_re"].square().sum(1) + own["mixer.B_im"].square().sum(1)
    assert torch.allclose(x.abs().square().mean(0), expected, rtol=0.05)
