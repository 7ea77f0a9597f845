"""Recurrent highway network (arXiv 1607.03474, equations 6 to 9), step by step."""

import torch


def sizes(config, width):
    return config.get("hidden_size", width), config.get("depth", 4), 2 if config.get("coupled", True) else 3


def shapes(config, width):
    hidden, depth, gates = sizes(config, width)
    return {
        "mixer.weight_i": (gates * hidden, width), "mixer.weight_s": (depth, gates * hidden, hidden),
        "mixer.bias": (depth, gates * hidden),
    }


def output_width(config, width):
    return config.get("hidden_size", width)


def draw(config, name, normal):
    return 0.5 * normal if name == "mixer.bias" else None


def forward(config, own, x):
    hidden, depth, gates = sizes(config, x.shape[-1])
    u = x @ own["mixer.weight_i"].T
    s = torch.zeros_like(u[:, 0, :hidden])
    outputs = []
    for t in range(x.shape[1]):
        for layer in range(depth):
            a = s @ own["mixer.weight_s"][layer].T + own["mixer.bias"][layer] + (u[:, t] if layer == 0 else 0)
            h, transform, *carry = a.chunk(gates, -1)
            transform = torch.sigmoid(transform)
            carry = torch.sigmoid(carry[0]) if carry else 1 - transform
            s = torch.tanh(h) * transform + s * carry
        outputs.append(s)
    return torch.stack(outputs, 1), {"s": s[None]}


def check():
    """One coupled micro-layer is a GRU whose reset gate is open."""
    torch.manual_seed(1)
    module = torch.nn.GRU(5, 4, batch_first=True, dtype=torch.float64)
    own = {n: p.detach().clone() for n, p in module.named_parameters()}
    own["bias_ih_l0"][:4] = 1e3
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    expected = torch.func.functional_call(module, own, (x,))[0]

    def ours(name):  # h and t of the candidate and of z, which keeps the old state
        return torch.cat([own[name][8:], -own[name][4:8]])

    y, _ = forward({"hidden_size": 4, "depth": 1}, {
        "mixer.weight_i": ours("weight_ih_l0"), "mixer.weight_s": ours("weight_hh_l0")[None],
        "mixer.bias": (ours("bias_ih_l0") + ours("bias_hh_l0"))[None],
    }, x)
    assert torch.allclose(y, expected, rtol=1e-11, atol=1e-12)
