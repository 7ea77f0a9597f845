"""Block-diagonal recurrent networks (FlashRNN, arXiv 2412.07752)."""

import torch

from mixers import _cells

# Gates of the input and of the recurrence, and biases.
GATES = {"elman": (1, 1, 1), "lstm": (4, 4, 4), "gru": (3, 3, 4), "slstm": (4, 4, 4)}


def sizes(config, width):
    hidden = config.get("hidden_size", width)
    return hidden, config["head_count"], hidden // config["head_count"]


def shapes(config, width):
    hidden, heads, size = sizes(config, width)
    inputs, recurrent, biases = GATES[config["function"]]
    return {
        "mixer.wx.weight": (inputs * hidden, width),
        "mixer.R": (recurrent, heads, size, size),
        "mixer.b": (biases, heads, size),
    }


def output_width(config, width):
    return config.get("hidden_size", width)


def draw(config, name, normal):
    return 0.3 * normal if name == "mixer.b" else None


def forward(config, own, x):
    function, bias = config["function"], own["mixer.b"]
    candidate_bias = None
    if function == "gru":
        candidate_bias, bias = bias[0], bias[1:]
    pre = (x @ own["mixer.wx.weight"].T).unflatten(-1, bias.shape) + bias
    h, states = getattr(_cells, function)(pre, own["mixer.R"], candidate_bias)
    return h.flatten(2), {"s": torch.stack([state.flatten(1) for state in states])}


def check():
    """One head is torch's network, for gates in torch's order."""
    orders = {"elman": [0], "lstm": [0, 1, 2, 3], "gru": [1, 2, 0]}
    modules = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    for function, order in orders.items():
        torch.manual_seed(1)
        module = modules[function](5, 4, batch_first=True, dtype=torch.float64)
        own = {n: p.detach() for n, p in module.named_parameters()}
        gates = len(order)
        recurrent = torch.empty(gates, 1, 4, 4, dtype=torch.float64)
        recurrent[order] = own["weight_hh_l0"].unflatten(0, (gates, 1, 4))
        biases = (own["bias_ih_l0"] + own["bias_hh_l0"]).unflatten(0, (gates, 1, 4))
        if function == "gru":
            biases[2] = own["bias_ih_l0"][8:]
            biases = torch.cat([own["bias_hh_l0"][None, None, 8:], biases])
        x = torch.randn(3, 7, 5, dtype=torch.float64)
        config = {"function": function, "hidden_size": 4, "head_count": 1}
        ours, _ = forward(config, {"mixer.wx.weight": own["weight_ih_l0"], "mixer.R": recurrent, "mixer.b": biases}, x)
        assert torch.allclose(ours, module(x)[0], rtol=1e-11, atol=1e-12), function
