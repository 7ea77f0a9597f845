"""Gated associative memory (arXiv 2509.00605).

Legend: B sequences, T tokens, D width, M slots, W taps.
"""

import torch
import torch.nn.functional as F


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    return {
        "mixer.causal_conv.weight": (width, 1, config.get("conv_kernel_size", 3)),
        "mixer.causal_conv.bias": (width,),
        "mixer.memory_bank": (config.get("num_memory_slots", 512), width),
        "mixer.gate.weight": (2 * width, width),
        "mixer.gate.bias": (2 * width,),
    }


def output_width(config: dict, width: int) -> int:
    return width


def forward(config: dict, own: dict, x: torch.Tensor):
    B, T, D = x.shape
    taps = own["mixer.causal_conv.weight"][:, 0]
    W = taps.shape[1]
    past = F.pad(x, (0, 0, W - 1, 0))
    local = sum(past[:, i : i + T] * taps[:, i] for i in range(W)) + own["mixer.causal_conv.bias"]
    bank = own["mixer.memory_bank"]
    slots = torch.softmax(x @ bank.T, -1) @ bank
    a, b = (x @ own["mixer.gate.weight"].T + own["mixer.gate.bias"]).chunk(2, -1)
    return torch.sigmoid(a) * local + torch.sigmoid(b) * slots, {"conv": past[:, T:].reshape(1, B, -1)}


def check() -> None:
    """No gate weighs both branches by a half, one slot answers with itself, and the last tap meets the current token."""
    torch.manual_seed(0)
    x, config = torch.randn(2, 5, 4).double(), {"num_memory_slots": 1}
    own = {name: torch.zeros(shape).double() for name, shape in shapes(config, 4).items()}
    own["mixer.memory_bank"] = torch.randn(1, 4).double()
    own["mixer.causal_conv.weight"][:, 0, -1] = 1
    torch.testing.assert_close(forward(config, own, x)[0], 0.5 * x + 0.5 * own["mixer.memory_bank"].expand(2, 5, 4))
