"""Pieces that matrix memories share, step by step.

Legend: B sequences, T tokens, H heads, K key width, V value width.
"""

import torch


def memory(q, k, v, log_decay, log_input=None, scale=1.0):
    """S_t = f_t S_{t-1} + i_t k_t v_t^T, o_t = scale q_t S_t, of q, k [B, T, H, K], v [B, T, H, V].

    log_decay broadcasts against [B, T, H, K], log_input is [B, T, H]. Returns o [B, T, H, V] and S [B, H, K, V].
    """
    batch, time, heads, width = k.shape
    state = q.new_zeros(batch, heads, width, v.shape[-1])
    decay = log_decay.exp().expand(batch, time, heads, width)
    outputs = []
    for t in range(time):
        key = k[:, t] if log_input is None else k[:, t] * log_input[:, t, :, None].exp()
        state = decay[:, t, :, :, None] * state + key[..., :, None] * v[:, t, :, None, :]
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1), state


def unrolled(q, k, v, log_decay, scale=1.0):
    """The same output as a sum over all earlier tokens, for checks; log_decay [B, T, H, K]."""
    total = log_decay.cumsum(1)
    time = q.shape[1]
    outputs = []
    for t in range(time):
        weights = (total[:, t : t + 1] - total[:, : t + 1]).exp() * k[:, : t + 1]
        scores = scale * torch.einsum("bhk,bshk->bsh", q[:, t], weights)
        outputs.append(torch.einsum("bsh,bshv->bhv", scores, v[:, : t + 1]))
    return torch.stack(outputs, 1)


def convolved(x, weight, bias=None):
    """silu of a causal depth-wise convolution, last tap for the current token; and the next chunk's past."""
    taps = weight.shape[-1]
    past = torch.cat([x.new_zeros(x.shape[0], taps - 1, x.shape[2]), x], 1)
    y = sum(past[:, k : k + x.shape[1]] * weight[:, 0, k] for k in range(taps))
    if bias is not None:
        y = y + bias
    return silu(y), past[:, x.shape[1] :]


def silu(x):
    return x * torch.sigmoid(x)


def rms(x, epsilon):
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def flat(**state):
    """Final states as the generator wants them: [1, B, everything else]."""
    return {name: tensor.flatten(1)[None] for name, tensor in state.items()}


# The frame of RetNet, GLA and linear attention: projections, convolutions, norm, output gate.


def head_sizes(config, width, expand_k=1.0, expand_v=1.0):
    heads = config["head_count"]
    key = int(config.get("expand_k", expand_k) * width) // heads
    value = int(config.get("expand_v", expand_v) * width) // heads
    return heads, config.get("kv_head_count", heads), key, value


def frame_shapes(config, width, sizes, gated, norm="g_norm"):
    heads, groups, key, value = sizes
    shapes = {
        "mixer.q_proj.weight": (heads * key, width),
        "mixer.k_proj.weight": (groups * key, width),
        "mixer.v_proj.weight": (groups * value, width),
    }
    if config.get("short_conv", False):
        taps = config.get("conv_size", 4)
        channels = {"q": heads * key, "k": groups * key, "v": groups * value}
        shapes |= {f"mixer.{name}_conv1d.weight": (count, 1, taps) for name, count in channels.items()}
    if gated:
        shapes["mixer.g_proj.weight"] = (heads * value, width)
    return shapes | {f"mixer.{norm}.weight": (value,), "mixer.o_proj.weight": (width, heads * value)}


def project(config, own, x, sizes):
    """q [B, T, H, K], k [B, T, H, K], v [B, T, H, V] with shared heads repeated, and the convolutions' pasts."""
    heads, groups, key, value = sizes
    pieces, pasts = {}, {}
    for name, count, size in (("q", heads, key), ("k", groups, key), ("v", groups, value)):
        y = x @ own[f"mixer.{name}_proj.weight"].T
        if config.get("short_conv", False):
            y, pasts[f"conv_{name}"] = convolved(y, own[f"mixer.{name}_conv1d.weight"])
        pieces[name] = y.unflatten(-1, (count, size)).repeat_interleave(heads // count, 2)
    return pieces["q"], pieces["k"], pieces["v"], pasts


def finish(own, o, x, gated, epsilon, norm="g_norm"):
    o = (rms(o, epsilon) * own[f"mixer.{norm}.weight"]).flatten(-2)
    if gated:
        o = o * silu(x @ own["mixer.g_proj.weight"].T)
    return o @ own["mixer.o_proj.weight"].T
