"""The functions the references are made of, written out from the papers, and second opinions on them.

Legend: B sequences, T tokens each, D width, H query heads, G key/value heads, K head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = dict[str, Tensor]


# MARK: Functions of the literature


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """arXiv 1910.07467."""
    return weight * x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """arXiv 1607.06450, biased variance."""
    centred = x - x.mean(-1, keepdim=True)
    return weight * centred * (centred.square().mean(-1, keepdim=True) + epsilon).rsqrt() + bias


def gelu(x: Tensor) -> Tensor:
    """arXiv 1606.08415: x times the normal distribution function."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The same reference's approximation."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def rotate(x: Tensor, theta: float, positions: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary positions (arXiv 2104.09864) of x [B, T, H, K] at `positions` [T].

    Channels are paired (i, i + K/2), or (2i, 2i + 1) if interleaved.
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=x.dtype) * 2 / x.shape[-1])
    angle = positions.to(x.dtype)[:, None, None] * frequency
    low, high = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    turned = low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


def repeated(y: Tensor, heads: int) -> Tensor:
    """The head that each of `heads` query heads reads, of y [B, T, G, K]."""
    return y[:, :, torch.arange(heads) * y.shape[2] // heads]


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, at: Tensor | None = None, keys_at: Tensor | None = None
) -> Tensor:
    """softmax(q·k / √K) v of q [B, T, H, K] and k, v [B, S, G, K]; query head h reads head ⌊h·G/H⌋.

    `at` [T] and `keys_at` [S] are positions, 0, 1, … if absent: a query sees the keys no later than itself.
    """
    at = torch.arange(q.shape[1]) if at is None else at
    keys_at = torch.arange(k.shape[1]) if keys_at is None else keys_at
    k, v = repeated(k, q.shape[2]), repeated(v, q.shape[2])
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(q.shape[-1])
    distance = at[:, None] - keys_at
    visible = distance >= 0
    if window is not None:
        visible &= distance < window
    weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
    return torch.einsum("bhij,bjhk->bihk", weights, v)


def linear(parameters: Parameters, name: str, x: Tensor, lora_scale: float = 0) -> Tensor:
    """x Wᵀ + b, b where there is one, and scale (x Aᵀ) Bᵀ where there are `lora_A`, `lora_B` (arXiv 2410.20672)."""
    y = x @ parameters[f"{name}.weight"].T
    if f"{name}.bias" in parameters:
        y = y + parameters[f"{name}.bias"]
    if f"{name}.lora_A.weight" in parameters:
        y = y + lora_scale * (x @ parameters[f"{name}.lora_A.weight"].T) @ parameters[f"{name}.lora_B.weight"].T
    return y


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(logits)[target] over the targets that count, by their number."""
    counted = targets >= 0
    picked = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    losses = logits.logsumexp(-1) - picked
    return losses[counted].sum() / counted.sum()


def mean_divergence(teacher: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the targets that count of Σ q log(q / p), q = softmax(teacher), p = softmax(logits)."""
    log_q, log_p = teacher.log_softmax(-1), logits.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)[targets >= 0].mean()


# MARK: Second opinions on the cells, from their equations


def written_out_cell(kind: str, own: Parameters, x: Tensor, layer: int) -> Tensor:
    """One direction of one layer of rnn, rnn_relu, lstm or gru, step by step, for x [B, T, in]."""
    w_ih, w_hh = own[f"weight_ih_l{layer}"], own[f"weight_hh_l{layer}"]
    zero = torch.zeros(w_ih.shape[0], dtype=x.dtype)
    b_ih, b_hh = own.get(f"bias_ih_l{layer}", zero), own.get(f"bias_hh_l{layer}", zero)
    h = c = torch.zeros(x.shape[0], w_hh.shape[1], dtype=x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        of_input, of_state = x[:, t] @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        if kind == "lstm":
            i, f, g, o = (of_input + of_state).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        elif kind == "gru":
            (r, z, n), (hr, hz, hn) = of_input.chunk(3, -1), of_state.chunk(3, -1)
            z = (z + hz).sigmoid()
            h = (1 - z) * (n + (r + hr).sigmoid() * hn).tanh() + z * h
        else:
            a = of_input + of_state
            h = a.relu() if kind == "rnn_relu" else a.tanh()
        outputs.append(h)
    return torch.stack(outputs, 1)


def relu_margin(own: Parameters, x: Tensor, y: Tensor) -> float:
    """Smallest |pre-activation| of a one-layer, one-direction relu network with outputs y."""
    previous = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
    a = x @ own["weight_ih_l0"].T + own["bias_ih_l0"] + previous @ own["weight_hh_l0"].T + own["bias_hh_l0"]
    return a.abs().min().item()


def check() -> None:
    """The functions above against torch's own, and the cells against their equations."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def agree(name: str, a: Tensor, b: Tensor) -> None:
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-12), f"{name}: off by {(a - b).abs().max():.1e}"

    x, w, b = normal(3, 7, 10), normal(10), normal(10)
    agree("rms_norm", rms_norm(x, w, 1e-5), F.rms_norm(x, (10,), w, 1e-5))
    agree("layer_norm", layer_norm(x, w, b, 1e-5), F.layer_norm(x, (10,), w, b, 1e-5))
    agree("gelu", gelu(x), F.gelu(x))
    agree("gelu_tanh", gelu_tanh(x), F.gelu(x, approximate="tanh"))
    agree("silu", silu(x), F.silu(x))

    q, k, v = normal(2, 9, 6, 4), normal(2, 9, 2, 4), normal(2, 9, 2, 4)
    heads_first = [t.transpose(1, 2) for t in (q, k, v)]
    ours = F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True).transpose(1, 2)
    agree("causal_attention", causal_attention(q, k, v, None), ours)
    agree("window 1", causal_attention(q, k, v, 1), v.repeat_interleave(3, 2))
    agree("window T", causal_attention(q, k, v, 9), ours)
    steps = torch.arange(9)
    agree(
        "only distances matter to rotary scores",
        causal_attention(rotate(q, 1e4, steps), rotate(k, 1e4, steps), v, 5),
        causal_attention(rotate(q, 1e4, steps + 17), rotate(k, 1e4, steps + 17), v, 5))
    as_complex = torch.complex(q[..., :2], q[..., 2:])
    turned = as_complex * torch.polar(
        torch.ones(9, 1, 2, dtype=torch.float64),
        torch.arange(9)[:, None, None] * torch.tensor([1, 1e4**-0.5], dtype=torch.float64))
    agree("rotation of complex numbers", rotate(q, 1e4, steps), torch.cat([turned.real, turned.imag], -1))
    pairs = [0, 2, 1, 3]
    agree("interleaved rotation", rotate(q, 1e4, steps, True)[..., pairs], rotate(q[..., pairs], 1e4, steps))
    some = torch.tensor([1, 4, 6])
    agree("chosen queries", causal_attention(q[:, some], k, v, 5, some), causal_attention(q, k, v, 5)[:, some])

    targets = torch.tensor([[1, -1, 3], [-1, 0, 2]])
    agree("loss", mean_loss(x[:2, :3], targets), F.cross_entropy(x[:2, :3].flatten(0, 1), targets.flatten(), ignore_index=-1))

    teacher = normal(2, 3, 10)
    kept = targets.flatten() >= 0
    agree("divergence", mean_divergence(teacher, x[:2, :3], targets), F.kl_div(
        x[:2, :3].flatten(0, 1)[kept].log_softmax(-1), teacher.flatten(0, 1)[kept].softmax(-1), reduction="batchmean"))

    for kind in ("rnn", "rnn_relu", "lstm", "gru"):
        for bidirectional in (False, True):
            options = {"nonlinearity": "relu"} if kind == "rnn_relu" else {}
            make = {"rnn": torch.nn.RNN, "rnn_relu": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
            torch.manual_seed(2)
            module = make(5, 4, num_layers=2, bidirectional=bidirectional, batch_first=True, dtype=torch.float64, **options)
            own = dict(module.named_parameters())
            x = normal(3, 6, 5)
            expected = module(x)[0]
            y = x
            for layer in range(2):
                forwards = written_out_cell(kind, own, y, layer)
                if bidirectional:
                    reverse = {n.removesuffix("_reverse"): p for n, p in own.items() if n.endswith("_reverse")}
                    backwards = written_out_cell(kind, reverse, y.flip(1), layer).flip(1)
                    y = torch.cat([forwards, backwards], -1)
                else:
                    y = forwards
            agree(f"{kind} output", y, expected)
            weight = normal(*y.shape)
            ours = torch.autograd.grad((y * weight).sum(), list(own.values()))
            theirs = torch.autograd.grad((expected * weight).sum(), list(own.values()))
            for name, a, b in zip(own, ours, theirs):
                agree(f"{kind} gradient of {name}", a, b)
