"""SGConv (arXiv 2210.09298): the kernel by torch's own interpolation, the convolution as a sum."""

import math

import torch
import torch.nn.functional as F


def sizes(config: dict) -> tuple[int, int, int]:
    """Taps, numbers of a piece, and pieces."""
    taps, size = config.get("l_max", 1024), config.get("kernel_dim", 64)
    return taps, size, 1 + max(0, math.ceil(math.log2(taps / size)))


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    _, size, count = sizes(config)
    pieces = {f"mixer.kernel_list.{i}": (1, width, size) for i in range(count)}
    return {
        **pieces,
        "mixer.D": (1, width),
        "mixer.output_linear.weight": (width, width),
        "mixer.output_linear.bias": (width,),
    }


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """The pieces' own scale."""
    return normal if name.startswith("mixer.kernel_list") else None


def stretched(pieces: list[torch.Tensor], config: dict) -> torch.Tensor:
    """The uncut kernel `[D, d·2^(S−1)]` of pieces `[D, d]`, before its norm."""
    width, count = len(pieces[0]), len(pieces)
    decay = torch.linspace(config.get("decay_min", 2), config.get("decay_max", 2), width, dtype=pieces[0].dtype)
    rows = []
    for i, piece in enumerate(pieces):
        factor = 2 ** max(0, i - 1)
        long = F.interpolate(piece[None], scale_factor=factor, mode="linear")[0] if factor > 1 else piece
        rows.append(long * decay[:, None] ** (count - 1 - i))
    return torch.cat(rows, -1)


def expected_norm(config: dict, width: int, dtype: torch.dtype) -> torch.Tensor:
    """L2 norm over time, `[D]`, of kernels whose numbers are N(1): every number's part in every tap, squared."""
    _, size, count = sizes(config)
    total = torch.zeros(width, dtype=dtype)
    for i in range(count):
        for n in range(size):
            pieces = [torch.zeros(width, size, dtype=dtype) for _ in range(count)]
            pieces[i][:, n] = 1
            total += stretched(pieces, config).square().sum(-1)
    return total.sqrt()


def forward(config: dict, own: dict, u: torch.Tensor):
    taps, _, count = sizes(config)
    T = u.shape[1]
    pieces = [own[f"mixer.kernel_list.{i}"][0] for i in range(count)]
    kernel = stretched(pieces, config) / expected_norm(config, u.shape[2], u.dtype)[:, None]
    past = F.pad(u, (0, 0, taps - 1, 0))
    y = sum(kernel[:, j] * past[:, taps - 1 - j : taps - 1 - j + T] for j in range(taps)) + own["mixer.D"][0] * u
    out = F.gelu(y) @ own["mixer.output_linear.weight"].T + own["mixer.output_linear.bias"]
    return out, {"x": past[:, -(taps - 1) :].reshape(1, len(u), -1)}


def check() -> None:
    """Lengths of the pieces, and the convolution by transforms."""
    torch.manual_seed(0)
    config = {"l_max": 16, "kernel_dim": 4}
    assert sizes(config) == (16, 4, 3) and stretched([torch.ones(1, 4)] * 3, config).shape == (1, 16)
    own = {name: torch.randn(shape).double() for name, shape in shapes(config, 3).items()}
    own["mixer.output_linear.weight"], own["mixer.output_linear.bias"] = torch.eye(3).double(), torch.zeros(3).double()
    u = torch.randn(2, 9, 3).double()
    kernel = stretched([own[f"mixer.kernel_list.{i}"][0] for i in range(3)], config) / expected_norm(config, 3, u.dtype)[:, None]
    y = torch.fft.irfft(torch.fft.rfft(u, 32, dim=1) * torch.fft.rfft(kernel.T, 32, dim=0), 32, dim=1)[:, :9]
    assert torch.allclose(forward(config, own, u)[0], F.gelu(y + own["mixer.D"] * u), atol=1e-12)
