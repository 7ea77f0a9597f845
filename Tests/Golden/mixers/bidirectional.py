"""A causal mixer in both directions of time. The mixer is one that has a reference in this folder."""

import importlib

import torch


def inner(config):
    return importlib.import_module(f"mixers.{config['mixer']['type']}")


def renamed(name, direction):
    return f"mixer.{direction}.{name.removeprefix('mixer.')}"


def shapes(config, width):
    mixer = inner(config)
    shapes = {
        renamed(name, direction): shape
        for direction in ("fwd", "bwd")
        for name, shape in mixer.shapes(config["mixer"], width).items()
    }
    if config.get("merge", "concat") == "linear":
        own = mixer.output_width(config["mixer"], width)
        shapes |= {"mixer.merge.weight": (own, 2 * own), "mixer.merge.bias": (own,)}
    return shapes


def output_width(config, width):
    own = inner(config).output_width(config["mixer"], width)
    return 2 * own if config.get("merge", "concat") == "concat" else own


def is_causal(config):
    return False


def forward(config, own, x):
    mixer = inner(config)

    def run(direction, x):
        names = mixer.shapes(config["mixer"], x.shape[-1])
        return mixer.forward(config["mixer"], {n: own[renamed(n, direction)] for n in names}, x)[0]

    ahead, behind = run("fwd", x), run("bwd", x.flip(1)).flip(1)
    merge = config.get("merge", "concat")
    if merge == "sum":
        return ahead + behind, {}
    y = torch.cat([ahead, behind], -1)
    return (y @ own["mixer.merge.weight"].T + own["mixer.merge.bias"] if merge == "linear" else y), {}


def check():
    """Round one head of FlashRNN's Elman network it is torch's bidirectional one."""
    torch.manual_seed(1)
    module = torch.nn.RNN(5, 4, batch_first=True, bidirectional=True, dtype=torch.float64)
    theirs = {n: p.detach() for n, p in module.named_parameters()}
    own = {}
    for direction, suffix in (("fwd", ""), ("bwd", "_reverse")):
        own[f"mixer.{direction}.wx.weight"] = theirs[f"weight_ih_l0{suffix}"]
        own[f"mixer.{direction}.R"] = theirs[f"weight_hh_l0{suffix}"][None, None]
        own[f"mixer.{direction}.b"] = (theirs[f"bias_ih_l0{suffix}"] + theirs[f"bias_hh_l0{suffix}"])[None, None]
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    config = {"mixer": {"type": "flashrnn", "function": "elman", "hidden_size": 4, "head_count": 1}}
    assert torch.allclose(forward(config, own, x)[0], module(x)[0], rtol=1e-11, atol=1e-12)
