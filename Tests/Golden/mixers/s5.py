"""S5 (arXiv 2208.04933): one diagonal state space for all features, step by step."""

import torch

from mixers._state_space import discretized, gated, paired, state


def count(config: dict) -> int:
    return config.get("ssm_size", 256) // 2


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    P, kind = count(config), config.get("activation", "half_glu1")
    gates = {"full_glu": ["out1", "out2"], "gelu": []}.get(kind, ["out2"])
    result = {
        "mixer.Lambda_re": (P,),
        "mixer.Lambda_im": (P,),
        "mixer.B": (P, width, 2),
        "mixer.C": (width, P, 2),
        "mixer.log_step": (P, 1),
        "mixer.D": (width,),
    }
    for gate in gates:
        result |= {f"mixer.{gate}.weight": (width, width), f"mixer.{gate}.bias": (width,)}
    return result


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """Poles in the left half plane (one is clipped where the configuration says so) and steps of many lengths."""
    if name == "mixer.Lambda_re":
        poles = -abs(normal) - 0.1
        if config.get("clip_eigs"):
            poles[0] = 0.05
        return poles
    if name == "mixer.Lambda_im":
        return 3 * normal
    return normal - 1 if name == "mixer.log_step" else None


def coefficients(config: dict, own: dict):
    re = own["mixer.Lambda_re"]
    if config.get("clip_eigs", False):
        re = re.clamp(max=-1e-4)
    step = config.get("step_rescale", 1) * torch.exp(own["mixer.log_step"][:, 0])
    return discretized(torch.complex(re, own["mixer.Lambda_im"]), step, config.get("discretization", "zoh"))


def scan(config: dict, own: dict, u: torch.Tensor):
    a, b = coefficients(config, own)
    B, C = b[:, None] * paired(own["mixer.B"]), paired(own["mixer.C"])
    x = torch.zeros(len(u), len(a), dtype=a.dtype)
    ys = []
    for t in range(u.shape[1]):
        x = a * x + u[:, t].to(a.dtype) @ B.T
        ys.append(2 * (x @ C.T).real + own["mixer.D"] * u[:, t])
    return torch.stack(ys, 1), x


def forward(config: dict, own: dict, u: torch.Tensor):
    y, x = scan(config, own, u)
    return gated(own, config.get("activation", "half_glu1"), y), {"x": state(x)}


def check() -> None:
    """The recurrence against the sum `2 Re Σ_s C ā^(t−s) B̄ u_s`."""
    torch.manual_seed(0)
    config = {"ssm_size": 6}
    own = {name: 0.5 * torch.randn(shape).double() for name, shape in shapes(config, 3).items()}
    u = torch.randn(2, 9, 3).double()
    a, b = coefficients(config, own)
    kernel = torch.einsum("dp,lp,pe->lde", paired(own["mixer.C"]), a ** torch.arange(9)[:, None], b[:, None] * paired(own["mixer.B"]))
    kernel = 2 * kernel.real
    expected = own["mixer.D"] * u
    for t in range(9):
        expected[:, t] += sum(u[:, s] @ kernel[t - s].T for s in range(t + 1))
    assert torch.allclose(scan(config, own, u)[0], expected, atol=1e-12)
