"""The channel mix of RWKV-4 (arXiv 2305.13048)."""

import torch

from mixers._rwkv4 import shifted


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    hidden = config.get("hidden_size", 4 * width)
    return {
        "mixer.time_mix_k": (1, 1, width),
        "mixer.time_mix_r": (1, 1, width),
        "mixer.key.weight": (hidden, width),
        "mixer.receptance.weight": (width, width),
        "mixer.value.weight": (width, hidden),
    }


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """Mixes inside and a little outside of 0 … 1."""
    return 0.5 + 0.3 * normal if name.startswith("mixer.time_mix") else None


def forward(config: dict, own: dict, x: torch.Tensor):
    key = torch.relu(shifted(x, own["mixer.time_mix_k"]) @ own["mixer.key.weight"].T) ** 2
    gate = torch.sigmoid(shifted(x, own["mixer.time_mix_r"]) @ own["mixer.receptance.weight"].T)
    return gate * (key @ own["mixer.value.weight"].T), {"shift": x[:, -1][None]}


def check() -> None:
    """Mixes of one leave no trace of the token before."""
    torch.manual_seed(0)
    own = {name: torch.randn(shape).double() for name, shape in shapes({}, 3).items()}
    own["mixer.time_mix_k"], own["mixer.time_mix_r"] = torch.ones(3).double(), torch.ones(3).double()
    x = torch.randn(2, 5, 3).double()
    alone = torch.cat([forward({}, own, x[:, t : t + 1])[0] for t in range(5)], 1)
    assert torch.allclose(forward({}, own, x)[0], alone)
