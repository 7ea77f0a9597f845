"""minGRU and minLSTM (arXiv 2410.01201, section 3 and appendix), step by step."""

import torch


def state_width(config, width):
    return int(width * config.get("expansion_factor", 1.0))


def shapes(config, width, name, gates):
    inner = state_width(config, width)
    shapes = {f"mixer.{name}.weight": (gates * inner, width)}
    if inner != width:
        shapes["mixer.to_out.weight"] = (width, inner)
    return shapes


def candidate(config, hidden):
    """g: positive and continuous, or the identity."""
    if not config.get("log_space", True):
        return hidden
    return torch.where(hidden >= 0, hidden + 0.5, torch.sigmoid(hidden))


def run(config, own, keep, take, hidden):
    """h = keep h + take g(hidden) for [B, T, C] each, and what becomes of it."""
    g = candidate(config, hidden)
    h = torch.zeros_like(g[:, 0])
    outputs = []
    for t in range(g.shape[1]):
        h = keep[:, t] * h + take[:, t] * g[:, t]
        outputs.append(h)
    y = torch.stack(outputs, 1)
    if "mixer.to_out.weight" in own:
        y = y @ own["mixer.to_out.weight"].T
    return y, {"h": h[None]}


def check(forward, shapes, gates):
    """In log space, as published: a sum of exponentials of prefix sums. `gates` gives log keep and log take."""
    draw = torch.Generator().manual_seed(1)
    own = {n: torch.randn(*s, generator=draw, dtype=torch.float64) for n, s in shapes({}, 6).items()}
    x = torch.randn(2, 11, 6, generator=draw, dtype=torch.float64)
    y, carries = forward({}, own, x)
    log_keep, log_take, hidden = gates(x @ next(iter(own.values())).T)
    log_value = log_take + torch.log(candidate({}, hidden))
    prefix = log_keep.cumsum(1)
    expected = torch.exp(prefix + (log_value - prefix).logcumsumexp(1))
    assert torch.allclose(y, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(carries["h"][0], y[:, -1])
