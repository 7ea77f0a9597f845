"""sLSTM (arXiv 2405.04517, section 2.2 and appendix A), step by step.

Legend: B sequences, T tokens, D width, N heads of S units, K taps of the convolution.
"""

import math

import torch
import torch.nn.functional as F

from mixers import _cells

GATES = ("igate", "fgate", "zgate", "ogate")


def sizes(config, width):
    heads, taps = config.get("head_count", 4), config.get("conv1d_kernel_size", 4)
    return heads, width // heads, taps


def inner_width(config, width):
    return math.ceil(config.get("ffn_proj_factor", 1.3) * width / 64) * 64


def shapes(config, width):
    heads, size, taps = sizes(config, width)
    is_block = config.get("block", False)
    prefix = "mixer.xlstm." if is_block else "mixer."
    shapes = {"mixer.xlstm_norm.weight": (width,)} if is_block else {}
    if taps:
        shapes |= {f"{prefix}conv1d.conv.weight": (width, 1, taps), f"{prefix}conv1d.conv.bias": (width,)}
    shapes |= {f"{prefix}{gate}.weight": (heads, size, size) for gate in GATES}
    shapes |= {
        f"{prefix}slstm_cell.recurrent_kernel": (heads, size, 4, size),
        f"{prefix}slstm_cell.bias": (heads, 4, size),
        f"{prefix}group_norm.weight": (width,),
    }
    if is_block:
        inner = inner_width(config, width)
        shapes |= {
            "mixer.ffn_norm.weight": (width,),
            "mixer.ffn.proj_up.weight": (2 * inner, width),
            "mixer.ffn.proj_down.weight": (width, inner),
        }
    return shapes


def output_width(config, width):
    return width


def draw(config, name, normal):
    if name.endswith("norm.weight"):
        return 0.3 * normal  # used as 1 + w
    if name.endswith("slstm_cell.bias"):
        return 0.5 * normal
    return None


def layer_norm(x, weight, groups):
    """Without bias, over each of `groups` groups of channels, times 1 + weight."""
    grouped = x.unflatten(-1, (groups, -1))
    centred = grouped - grouped.mean(-1, keepdim=True)
    return (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * (1 + weight)


def convolved(x, weight, bias):
    """silu of a causal depth-wise convolution; the last tap meets the current token."""
    taps = weight.shape[-1]
    past = torch.cat([x.new_zeros(x.shape[0], taps - 1, x.shape[2]), x], 1)
    y = bias + sum(past[:, k : k + x.shape[1]] * weight[:, 0, k] for k in range(taps))
    return y * torch.sigmoid(y), past[:, x.shape[1] :]


def recurrence(pre, kernel):
    """h [B, T, N, S] and the final h, c, n, m for pre-activations [B, T, N, 4, S] (i, f, z, o) and kernel [N, in, 4, out]."""
    return _cells.slstm(pre.transpose(2, 3), kernel.permute(2, 0, 3, 1), None)


def layer(config, own, x, prefix):
    heads, size, taps = sizes(config, x.shape[-1])
    carries = {}
    xc = x
    if taps:
        xc, past = convolved(x, own[f"{prefix}conv1d.conv.weight"], own[f"{prefix}conv1d.conv.bias"])
        carries["conv"] = past.flatten(1)[None]
    pre = []
    for gate, source in zip(GATES, (xc, xc, x, x)):
        pre.append(torch.einsum("btni,noi->btno", source.unflatten(-1, (heads, size)), own[f"{prefix}{gate}.weight"]))
    pre = torch.stack(pre, 3) + own[f"{prefix}slstm_cell.bias"]
    h, final = recurrence(pre, own[f"{prefix}slstm_cell.recurrent_kernel"])
    carries["s"] = torch.stack([state.flatten(1) for state in final])
    return layer_norm(h.flatten(2), own[f"{prefix}group_norm.weight"], heads), carries


def forward(config, own, x):
    if not config.get("block", False):
        return layer(config, own, x, "mixer.")
    mixed, carries = layer(config, own, layer_norm(x, own["mixer.xlstm_norm.weight"], 1), "mixer.xlstm.")
    x = x + mixed
    gate, up = (layer_norm(x, own["mixer.ffn_norm.weight"], 1) @ own["mixer.ffn.proj_up.weight"].T).chunk(2, -1)
    return x + (0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))) * up) @ own["mixer.ffn.proj_down.weight"].T, carries


def check():
    """Without a recurrent kernel h is a weighted mean, of weights e^i times the forget gates since; its scale is free."""
    draw = torch.Generator().manual_seed(1)
    pre = 2 * torch.randn(2, 9, 3, 4, 5, generator=draw, dtype=torch.float64)
    kernel = torch.zeros(3, 5, 4, 5, dtype=torch.float64)
    h, (_, c, n, m) = recurrence(pre, kernel)
    i, f, z, o = pre.unbind(3)
    log_forget = F.logsigmoid(f).cumsum(1)
    for t in range(9):
        weights = torch.exp(i[:, : t + 1] + log_forget[:, t : t + 1] - log_forget[:, : t + 1])
        expected = torch.sigmoid(o[:, t]) * (weights * torch.tanh(z[:, : t + 1])).sum(1) / weights.sum(1)
        assert torch.allclose(h[:, t], expected, rtol=1e-11, atol=1e-12)
    assert torch.allclose(n * torch.exp(m), weights.sum(1), rtol=1e-11)
    shifted = pre.clone()
    shifted[:, :, :, 0] += 300
    assert torch.allclose(recurrence(shifted, kernel)[0], h, rtol=1e-9, atol=1e-12)
    convolution, _ = convolved(z.flatten(2), o[0, :4].reshape(4, 15).T[:, None], f[0, 0].flatten())
    ours = F.conv1d(F.pad(z.flatten(2).mT, (3, 0)), o[0, :4].reshape(4, 15).T[:, None], f[0, 0].flatten(), groups=15).mT
    assert torch.allclose(convolution, F.silu(ours), rtol=1e-11, atol=1e-12)
