"""JRT-RNN (arXiv 2407.05483), step by step: Based after a first reading of the prefix. Legend as in _matrix_memory.py."""

import torch

from mixers import _matrix_memory as common
from mixers import based, linear_attention


def shapes(config, width):
    own = based.shapes(config, width)
    channels = config["head_count"] * config.get("feature_dim", 16)
    return own | {"mixer.proj_k_enc.weight": (channels, width), "mixer.proj_v_enc.weight": (width, width)}


def output_width(config, width):
    return width


def is_causal(config):
    """The generator changes the last token, which lies behind the prefix of its cases."""
    return True


def forward(config, own, x):
    heads, width = config["head_count"], config.get("feature_dim", 16)

    def project(name, x):
        return (x @ own[f"mixer.proj_{name}.weight"].T).unflatten(-1, (heads, -1))

    prefix = x[:, : config["enc_length"]]
    keys = linear_attention.taylor(project("k_enc", prefix))
    state = torch.einsum("bthk,bthv->bhkv", keys, project("v_enc", prefix))
    sums = keys.sum(1)
    q, k, v = linear_attention.taylor(project("q", x)), linear_attention.taylor(project("k", x)), project("v", x)
    outputs = []
    for t in range(x.shape[1]):
        state = state + k[:, t, :, :, None] * v[:, t, :, None, :]
        sums = sums + k[:, t]
        o = torch.einsum("bhk,bhkv->bhv", q[:, t], state)
        outputs.append(o / ((q[:, t] * sums).sum(-1, keepdim=True) + config.get("eps", 1e-12)))
    y = torch.stack(outputs, 1).flatten(-2) @ own["mixer.out_proj.weight"].T
    state, sums = linear_attention.packed(state, width), linear_attention.packed(sums[..., None], width)[..., 0]
    return y, common.flat(S=state, z=sums)


def check():
    """Without a prefix it is Based; and with it, attention with weights 1 + a + a^2/2 over prefix and past."""
    torch.manual_seed(2)
    config = {"head_count": 1, "feature_dim": 4, "enc_length": 3}
    own = {name: torch.randn(shape, dtype=torch.float64) / 3 for name, shape in shapes(config, 5).items()}
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    plain, _ = based.forward(config, own, x)
    assert torch.allclose(forward(config | {"enc_length": 0}, own, x)[0], plain)

    q, k, v = (x @ own[f"mixer.proj_{name}.weight"].T for name in "qkv")
    early_k, early_v = (x[:, :3] @ own[f"mixer.proj_{name}_enc.weight"].T for name in "kv")
    scores = torch.cat([q @ early_k.mT, q @ k.mT], -1) / 2
    weights = 1 + scores + scores.square() / 2
    weights = weights * torch.cat([torch.ones(7, 3), torch.ones(7, 7).tril()], -1)
    weights = weights / weights.sum(-1, keepdim=True)
    expected = weights @ torch.cat([early_v, v], 1) @ own["mixer.out_proj.weight"].T
    assert torch.allclose(forward(config, own, x)[0], expected)
