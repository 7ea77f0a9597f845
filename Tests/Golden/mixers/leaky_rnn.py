"""Leaky network with a time constant per unit (Emergent mechanisms for long timescales, ICLR 2024), step by step."""

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "leaky_relu": lambda x: torch.where(x < 0, 0.01 * x, x), "relu": torch.relu, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def shapes(config, width):
    hidden = config.get("hidden_size", width)
    return {
        "mixer.input_layers.0.weight": (hidden, width), "mixer.input_layers.0.bias": (hidden,),
        "mixer.w_hh.0.weight": (hidden, hidden), "mixer.w_hh.0.bias": (hidden,), "mixer.taus.0": (hidden,),
    }


def output_width(config, width):
    return config.get("hidden_size", width)


def draw(config, name, normal):
    # Some below 1, where they count as 1 and get no gradient.
    return 2 + normal if name == "mixer.taus.0" else None


def forward(config, own, x):
    phi = ACTIVATIONS[config.get("activation", "leaky_relu")]
    weight = own["mixer.w_hh.0.weight"]
    weight = weight - torch.diag(torch.diagonal(weight))
    rate = 1 / own["mixer.taus.0"].clamp(min=1)
    u = x @ own["mixer.input_layers.0.weight"].T + own["mixer.input_layers.0.bias"] + own["mixer.w_hh.0.bias"]
    h = torch.zeros_like(u[:, 0])
    outputs = []
    for t in range(x.shape[1]):
        p = u[:, t] + h @ weight.T
        if config.get("variant", "outside") == "outside":
            h = phi((1 - rate) * h + rate * p)
        else:
            h = (1 - rate) * h + rate * phi(p)
        outputs.append(h)
    return torch.stack(outputs, 1), {"h": h[None]}


def check():
    """With tau = 1 both are torch's network; the diagonal does not matter."""
    torch.manual_seed(1)
    module = torch.nn.RNN(5, 4, batch_first=True, dtype=torch.float64)
    own = {n: p.detach().clone() for n, p in module.named_parameters()}
    own["weight_hh_l0"].fill_diagonal_(0)
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    expected = torch.func.functional_call(module, own, (x,))[0]
    ours = {
        "mixer.input_layers.0.weight": own["weight_ih_l0"], "mixer.input_layers.0.bias": own["bias_ih_l0"],
        "mixer.w_hh.0.weight": own["weight_hh_l0"] + 3 * torch.eye(4, dtype=torch.float64),
        "mixer.w_hh.0.bias": own["bias_hh_l0"], "mixer.taus.0": torch.ones(4, dtype=torch.float64),
    }
    for variant in ("outside", "inside"):
        y, _ = forward({"activation": "tanh", "variant": variant}, ours, x)
        assert torch.allclose(y, expected, rtol=1e-11, atol=1e-12)
    assert torch.equal(ACTIVATIONS["leaky_relu"](x), F.leaky_relu(x, 0.01))
