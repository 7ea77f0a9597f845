"""ParaRNN's diagonal cells (arXiv 2510.21450): what both share."""

import torch


def sizes(config, width):
    state, heads = config.get("state_dim", width), config.get("head_count", 2)
    return state, heads


def shapes(config, width):
    state, heads = sizes(config, width)
    return {"mixer.A": (3, state), "mixer.B": (heads, width // heads, 3, state // heads), "mixer.b": (3, state)}


def draw(config, name, normal):
    return {"mixer.A": 0.7, "mixer.C": 0.7, "mixer.b": 0.5}.get(name, 0.6) * normal


def inputs(config, own, x):
    """u [B, T, 3, S]."""
    heads = own["mixer.B"].shape[0]
    u = torch.einsum("btni,nigo->btgno", x.unflatten(-1, (heads, -1)), own["mixer.B"])
    return u.flatten(3) + own["mixer.b"]


def check(cell, state_count):
    """Newton's method over all steps at once, with derivatives by autograd, ends where the recurrence does."""
    draw = torch.Generator().manual_seed(1)
    u = torch.randn(12, 3, 5, generator=draw, dtype=torch.float64)
    own = {
        "mixer.A": torch.randn(3, 5, generator=draw, dtype=torch.float64),
        "mixer.C": torch.randn(2, 5, generator=draw, dtype=torch.float64),
    }
    start = torch.zeros(state_count, 5, dtype=torch.float64)
    expected, s = [], start
    for t in range(12):
        s = cell(own, s, u[t])
        expected.append(s)
    expected = torch.stack(expected)

    def residual(flat):
        guess = flat.view(12, state_count, 5)
        before = torch.cat([start[None], guess[:-1]])
        return (torch.stack([cell(own, before[t], u[t]) for t in range(12)]) - guess).flatten()

    guess = torch.zeros(expected.numel(), dtype=torch.float64)
    for _ in range(12):
        jacobian = torch.autograd.functional.jacobian(residual, guess)
        guess = guess - torch.linalg.solve(jacobian, residual(guess))
    assert torch.allclose(guess, expected.flatten(), rtol=1e-10, atol=1e-11)
