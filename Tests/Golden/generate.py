#!/usr/bin/env python3
"""Float64 reference values for `seqtrain probe`.

For every model configuration `cases/NAME.yaml` this writes `cases/NAME.safetensors`:

    param.<name>                    parameters
    batch.inputs, batch.targets     [B, T] int64, -1 is ignored
    output                          [B, T, V] logits
    loss                            sum of token losses / counted tokens, nats
    grad.<name>                     gradient of `loss`
    carry.<i>.<name>                [L, B, size] final state of the recurrent block i

It shares nothing with the Swift code but the configuration keys and the canonical parameter names:
torch.nn's recurrent cells and attention are here, any other mixer in `mixers/<type>.py`; all that torch does
not have is written out from the papers' formulas. Parameters are rounded to float32 first, so both sides
start from equal values; results are float64 rounded to float32.

    pip install torch numpy pyyaml safetensors
    python3 generate.py             check and write every case
    python3 generate.py lstm gqa    only these
    python3 generate.py --check     check, write nothing

Written with Python 3.11, torch 2.13.0 (CPU), numpy 2.4.6, PyYAML 6.0.3, safetensors 0.8.0; the versions
used stand in each file's metadata. Values are drawn by numpy's PCG64, seeded with the CRC-32 of the
case's name, so a case does not change when others do.

Legend: B sequences, T tokens each, V vocabulary, D width, H query heads, G key/value heads, K head size.
"""

import argparse
import importlib
import math
import platform
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.numpy import save_file
from torch import Tensor

CASES = Path(__file__).parent / "cases"
MIXERS = Path(__file__).parent / "mixers"

# Fraction of targets set to -1. In these cases the last sequence is ignored as a whole, too.
IGNORED_TARGETS = {"ignored_targets": 0.3, "ignored_targets_tied": 0.3}

# Bar of GoldenTests.swift, and what a float32 run of the reference itself has to stay below: a case that
# is worse conditioned than that would test luck.
BAR = 2e-4
FLOAT32_MARGIN = BAR / 4
# As in GoldenTests.swift: gradients smaller than this part of the case's largest one are compared on
# that scale. Only gradients that vanish identically may be that small; `check` sees to it.
GRADIENT_FLOOR = 1e-3

Parameters = dict[str, Tensor]
Carries = dict[str, Tensor]


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


def rotate(x: Tensor, theta: float, offset: int = 0) -> Tensor:
    """Rotary positions (arXiv 2104.09864), pairs (i, i + K/2), of x [B, T, H, K]."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=x.dtype) * 2 / x.shape[-1])
    angle = (torch.arange(x.shape[1], dtype=x.dtype) + offset)[:, None, None] * frequency
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """softmax(q·k / √K) v of q [B, T, H, K] and k, v [B, T, G, K]; query head h reads head ⌊h·G/H⌋."""
    time, heads = q.shape[1], q.shape[2]
    source = torch.arange(heads) * k.shape[2] // heads
    k, v = k[:, :, source], v[:, :, source]
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(q.shape[-1])
    distance = torch.arange(time)[:, None] - torch.arange(time)
    visible = distance >= 0
    if window is not None:
        visible &= distance < window
    weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
    return torch.einsum("bhij,bjhk->bihk", weights, v)


# MARK: The model, from its configuration


@dataclass
class Block:
    """A block's configuration with inherited defaults filled in, and its place in the model."""

    index: int
    width: int
    norm: str
    residual: bool
    mixer: dict
    mlp: dict | None

    @property
    def prefix(self) -> str:
        return f"model.layers.{self.index}"

    @property
    def is_attention(self) -> bool:
        return self.mixer["type"] == "attention"

    @property
    def reference(self) -> ModuleType | None:
        """The file that knows this mixer; none for attention and torch.nn's cells."""
        if self.is_attention or self.mixer["type"] in TORCH_CELLS:
            return None
        return mixer_reference(self.mixer["type"])

    @property
    def hidden_size(self) -> int:
        return self.mixer.get("hidden_size", self.width)

    @property
    def directions(self) -> int:
        return 2 if self.mixer.get("bidirectional", False) else 1

    @property
    def is_causal(self) -> bool:
        if self.reference is None:
            return self.directions == 1
        return getattr(self.reference, "is_causal", lambda config: True)(self.mixer)

    @property
    def output_width(self) -> int:
        if self.reference is not None:
            return self.reference.output_width(self.mixer, self.width)
        if self.is_attention or self.mixer.get("output_projection", False):
            return self.width
        return self.hidden_size * self.directions


@dataclass
class ReferenceModel:
    """The `model:` section as functions of a parameter dictionary."""

    config: dict
    blocks: list[Block] = field(default_factory=list)
    # Set by rnn_relu blocks: the smallest |pre-activation| seen, to keep clear of the kink.
    kink_distance: float = math.inf

    def __post_init__(self) -> None:
        width = self.config["width"]
        for entry in self._unrolled(self.config["layers"]):
            block = Block(
                index=len(self.blocks),
                width=width,
                norm=entry.get("norm", self.norm),
                residual=entry.get("residual", True),
                mixer=entry["mixer"],
                mlp=entry.get("mlp"),
            )
            self.blocks.append(block)
            width = block.output_width
        self.last_width = width

    @property
    def norm(self) -> str:
        return self.config.get("norm", "rmsnorm")

    @property
    def final_norm(self) -> str:
        return self.config.get("final_norm", self.norm)

    @property
    def epsilon(self) -> float:
        return float(self.config.get("norm_epsilon", 1e-5))

    @property
    def is_causal(self) -> bool:
        return all(block.is_causal for block in self.blocks)

    def _unrolled(self, entries: list[dict]) -> Iterator[dict]:
        for entry in entries:
            for _ in range(entry.get("repeat", 1)):
                if "layers" in entry:
                    yield from self._unrolled(entry["layers"])
                else:
                    yield entry

    # Shapes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, in canonical order."""
        vocabulary, width = self.config["vocabulary_size"], self.config["width"]
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
        if self.config.get("positions") == "learned":
            shapes["model.embed_positions.weight"] = (self.config["max_positions"], width)

        def norm(kind: str, name: str, width: int) -> None:
            if kind != "none":
                shapes[f"{name}.weight"] = (width,)
            if kind == "layernorm":
                shapes[f"{name}.bias"] = (width,)

        def linear(name: str, inputs: int, outputs: int, bias: bool) -> None:
            shapes[f"{name}.weight"] = (outputs, inputs)
            if bias:
                shapes[f"{name}.bias"] = (outputs,)

        for block in self.blocks:
            norm(block.norm, f"{block.prefix}.input_layernorm", block.width)
            if block.is_attention:
                heads, kv_heads, size = head_sizes(block)
                for name, outputs in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                    linear(
                        f"{block.prefix}.self_attn.{name}_proj", block.width, outputs * size,
                        block.mixer.get("bias", False))
                linear(
                    f"{block.prefix}.self_attn.o_proj", heads * size, block.width, block.mixer.get("bias", False))
            elif block.reference is not None:
                for name, shape in block.reference.shapes(block.mixer, block.width).items():
                    shapes[f"{block.prefix}.{name}"] = shape
            else:
                for name, tensor in recurrent_module(block).state_dict().items():
                    shapes[f"{block.prefix}.mixer.{name}"] = tuple(tensor.shape)
                if block.mixer.get("output_projection", False):
                    linear(f"{block.prefix}.mixer.o_proj", block.hidden_size * block.directions, block.width, False)
            if block.mlp is not None:
                width, hidden = block.output_width, block.mlp["hidden_size"]
                kind = block.mlp.get("type", "swiglu")
                bias = block.mlp.get("bias", kind != "swiglu")
                norm(block.norm, f"{block.prefix}.post_attention_layernorm", width)
                for name in ("gate_proj", "up_proj") if kind == "swiglu" else ("up_proj",):
                    linear(f"{block.prefix}.mlp.{name}", width, hidden, bias)
                linear(f"{block.prefix}.mlp.down_proj", hidden, width, bias)
        norm(self.final_norm, "model.norm", self.last_width)
        if not self.config.get("tie_embeddings", False):
            shapes["lm_head.weight"] = (vocabulary, self.last_width)
        if self.config.get("head_bias", False):
            shapes["lm_head.bias"] = (vocabulary,)
        return shapes

    def special_values(self, parameter: str, normal: np.ndarray) -> np.ndarray | None:
        """What the parameter's mixer makes of normal draws, where the usual rule does not suit it."""
        for block in self.blocks:
            name = parameter.removeprefix(f"{block.prefix}.")
            if name != parameter and block.reference is not None and hasattr(block.reference, "draw"):
                return block.reference.draw(block.mixer, name, normal)
        return None

    # Forward

    def logits(self, parameters: Parameters, inputs: Tensor) -> tuple[Tensor, Carries]:
        """[B, T, V] for token ids [B, T], and the final recurrent states."""
        x = parameters["model.embed_tokens.weight"][inputs]
        if self.config.get("positions") == "learned":
            x = x + parameters["model.embed_positions.weight"][: inputs.shape[1]]
        carries: Carries = {}
        # Layers count from the embedding, 0; the head is the last.
        outputs = [x]
        for block in self.blocks:
            x = self._skipped(outputs, block.index + 1, x)
            normed = self._normalised(parameters, block.norm, f"{block.prefix}.input_layernorm", x)
            if block.is_attention:
                mixed, state = self._attention(parameters, block, normed), {}
            elif block.reference is not None:
                prefix = f"{block.prefix}."
                own = {n.removeprefix(prefix): p for n, p in parameters.items() if n.startswith(prefix)}
                mixed, state = block.reference.forward(block.mixer, own, normed)
            else:
                mixed, state = self._recurrent(parameters, block, normed)
            carries |= {f"carry.{block.index}.{name}": tensor for name, tensor in state.items()}
            x = x + mixed if block.residual else mixed
            if block.mlp is not None:
                normed = self._normalised(parameters, block.norm, f"{block.prefix}.post_attention_layernorm", x)
                fed = self._feed_forward(parameters, block, normed)
                x = x + fed if block.residual else fed
            outputs.append(x)
        x = self._skipped(outputs, len(self.blocks) + 1, x)
        x = self._normalised(parameters, self.final_norm, "model.norm", x)
        head = parameters.get("lm_head.weight", parameters["model.embed_tokens.weight"])
        y = x @ head.T
        if "lm_head.bias" in parameters:
            y = y + parameters["lm_head.bias"]
        return y, carries

    def _skipped(self, outputs: list[Tensor], layer: int, x: Tensor) -> Tensor:
        """x with the outputs that skip to this layer."""
        for skip in self.config.get("skips", []):
            if skip["to"] == layer:
                x = x + outputs[skip["from"]]
        return x

    def _normalised(self, parameters: Parameters, kind: str, name: str, x: Tensor) -> Tensor:
        if kind == "none":
            return x
        if kind == "rmsnorm":
            return rms_norm(x, parameters[f"{name}.weight"], self.epsilon)
        return layer_norm(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], self.epsilon)

    def _attention(self, parameters: Parameters, block: Block, x: Tensor) -> Tensor:
        heads, kv_heads, size = head_sizes(block)

        def projected(name: str, count: int) -> Tensor:
            y = linear(parameters, f"{block.prefix}.self_attn.{name}_proj", x)
            return y.reshape(*x.shape[:2], count, size)

        q, k, v = projected("q", heads), projected("k", kv_heads), projected("v", kv_heads)
        if block.mixer.get("rotary", self.config.get("positions", "rotary") == "rotary"):
            theta = float(block.mixer.get("rope_theta", 10_000))
            q, k = rotate(q, theta), rotate(k, theta)
        o = causal_attention(q, k, v, block.mixer.get("window"))
        return linear(parameters, f"{block.prefix}.self_attn.o_proj", o.flatten(2))

    def _recurrent(self, parameters: Parameters, block: Block, x: Tensor) -> tuple[Tensor, Carries]:
        module = recurrent_module(block).to(x.dtype)
        own = {name: parameters[f"{block.prefix}.mixer.{name}"] for name in module.state_dict()}
        y, state = torch.func.functional_call(module, own, (x,))
        if block.mixer.get("nonlinearity") == "relu":
            self.kink_distance = min(self.kink_distance, relu_margin(own, x.detach(), y.detach()))
        if block.mixer.get("output_projection", False):
            y = linear(parameters, f"{block.prefix}.mixer.o_proj", y)
        if block.directions == 2:
            return y, {}
        return y, dict(zip(("h", "c"), state if isinstance(state, tuple) else (state,)))

    def _feed_forward(self, parameters: Parameters, block: Block, x: Tensor) -> Tensor:
        kind = block.mlp.get("type", "swiglu")
        up = linear(parameters, f"{block.prefix}.mlp.up_proj", x)
        if kind == "swiglu":
            hidden = silu(linear(parameters, f"{block.prefix}.mlp.gate_proj", x)) * up
        else:
            hidden = {"gelu": gelu, "gelu_tanh": gelu_tanh}[kind](up)
        return linear(parameters, f"{block.prefix}.mlp.down_proj", hidden)

    def loss(self, parameters: Parameters, inputs: Tensor, targets: Tensor) -> Tensor:
        return mean_loss(self.logits(parameters, inputs)[0], targets)


def linear(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    y = x @ parameters[f"{name}.weight"].T
    return y + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else y


def head_sizes(block: Block) -> tuple[int, int, int]:
    heads = block.mixer["head_count"]
    return heads, block.mixer.get("kv_head_count", heads), block.mixer.get("head_size", block.width // heads)


TORCH_CELLS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def recurrent_module(block: Block) -> torch.nn.Module:
    kind = TORCH_CELLS[block.mixer["type"]]
    options = {"nonlinearity": block.mixer.get("nonlinearity", "tanh")} if kind is torch.nn.RNN else {}
    return kind(
        block.width, block.hidden_size, num_layers=block.mixer.get("num_layers", 1),
        bias=block.mixer.get("bias", True), bidirectional=block.directions == 2, batch_first=True, **options)


def mixer_reference(kind: str) -> ModuleType:
    """`mixers/<kind>.py`; README.md says what it defines."""
    assert (MIXERS / f"{kind}.py").exists(), f"no reference for mixer {kind!r}: {MIXERS / kind}.py is missing"
    return importlib.import_module(f"mixers.{kind}")


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(logits)[target] over the targets that count, by their number."""
    counted = targets >= 0
    picked = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    losses = logits.logsumexp(-1) - picked
    return losses[counted].sum() / counted.sum()


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


def check_functions() -> None:
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
    agree(
        "only distances matter to rotary scores",
        causal_attention(rotate(q, 1e4), rotate(k, 1e4), v, 5),
        causal_attention(rotate(q, 1e4, offset=17), rotate(k, 1e4, offset=17), v, 5))
    as_complex = torch.complex(q[..., :2], q[..., 2:])
    turned = as_complex * torch.polar(
        torch.ones(9, 1, 2, dtype=torch.float64),
        torch.arange(9)[:, None, None] * torch.tensor([1, 1e4**-0.5], dtype=torch.float64))
    agree("rotation of complex numbers", rotate(q, 1e4), torch.cat([turned.real, turned.imag], -1))

    targets = torch.tensor([[1, -1, 3], [-1, 0, 2]])
    agree("loss", mean_loss(x[:2, :3], targets), F.cross_entropy(x[:2, :3].flatten(0, 1), targets.flatten(), ignore_index=-1))

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


# MARK: A case


@dataclass
class Case:
    """Parameters and batch of a configuration, and what the model makes of them."""

    name: str
    model: ReferenceModel
    parameters: Parameters
    inputs: Tensor
    targets: Tensor

    @classmethod
    def drawn(cls, name: str) -> "Case":
        config = yaml.safe_load((CASES / f"{name}.yaml").read_text())
        model = ReferenceModel(config["model"])
        draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        parameters: Parameters = {}
        for parameter, shape in model.shapes().items():
            # Far from the initial values, so that no term hides: biases and norm weights vary, too.
            values = draw.standard_normal(shape)
            special = model.special_values(parameter, values)
            if special is not None:
                values = special
            elif parameter.endswith(("layernorm.weight", "norm.weight")):
                values = 1 + 0.3 * values
            elif len(shape) == 1:
                values = 0.3 * values
            elif parameter == "model.embed_positions.weight":
                values = 0.5 * values
            elif parameter != "model.embed_tokens.weight":
                values = values / math.sqrt(shape[-1])
            parameters[parameter] = torch.from_numpy(values.astype(np.float32).astype(np.float64)).requires_grad_()
        size = (config["train"]["batch_size"], config["train"]["sequence_length"])
        vocabulary = config["model"]["vocabulary_size"]
        inputs = torch.from_numpy(draw.integers(vocabulary, size=size))
        targets = torch.from_numpy(draw.integers(vocabulary, size=size))
        if name in IGNORED_TARGETS:
            targets[torch.from_numpy(draw.random(size) < IGNORED_TARGETS[name])] = -1
            targets[-1] = -1
        return cls(name, model, parameters, inputs, targets)

    def results(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """`output`, `loss`, `carry.*` and `grad.*`."""
        parameters = {n: p.detach().to(dtype).requires_grad_() for n, p in self.parameters.items()}
        output, carries = self.model.logits(parameters, self.inputs)
        loss = mean_loss(output, self.targets)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        results = {"output": output, "loss": loss} | carries
        results |= {f"grad.{name}": gradient for name, gradient in zip(parameters, gradients)}
        return {name: tensor.detach() for name, tensor in results.items()}

    def check(self, results: dict[str, Tensor]) -> str:
        """Laws that hold whatever the numbers are. Returns a line of figures."""
        draw = torch.Generator().manual_seed(3)

        # Gradients: central differences along a random direction, one parameter at a time.
        worst_difference = 0.0
        largest = max(t.abs().max().item() for n, t in results.items() if n.startswith("grad."))
        with torch.no_grad():
            for name, value in self.parameters.items():
                direction = torch.randn(value.shape, generator=draw, dtype=torch.float64)
                step = 1e-5
                above, below = (
                    self.model.loss(self.parameters | {name: value + s * direction}, self.inputs, self.targets)
                    for s in (step, -step))
                difference = (above - below) / (2 * step)
                expected = (results[f"grad.{name}"] * direction).sum()
                error = (difference - expected).abs().item() / max(expected.abs().item(), largest)
                worst_difference = max(worst_difference, error)
        assert worst_difference < 1e-6, f"{self.name}: central differences differ by {worst_difference:.1e}"

        # Causality: another last token leaves the outputs before it alone.
        if self.inputs.shape[1] > 1:
            changed = self.inputs.clone()
            changed[:, -1] = (changed[:, -1] + 1) % self.model.config["vocabulary_size"]
            with torch.no_grad():
                other = self.model.logits(self.parameters, changed)[0]
            moved = (other - results["output"])[:, :-1].abs().max().item()
            assert (moved < 1e-12) == self.model.is_causal, f"{self.name}: outputs before the change moved by {moved:.1e}"

        # Size: what a float32 implementation can be asked for.
        for name, tensor in results.items():
            assert tensor.isfinite().all(), f"{self.name}: {name} is not finite"
            size = tensor.abs().max().item() / largest
            vanishes = size < 1e-12  # the keys' bias without rotary positions, for one
            assert not name.startswith("grad.") or vanishes or size > GRADIENT_FLOOR, (
                f"{self.name}: {name} is too small to compare")
        assert self.model.kink_distance > 1e-4, f"{self.name}: relu within {self.model.kink_distance:.1e} of its kink"
        single = self.results(torch.float32)
        worst_single = max(
            ((single[name] - tensor).abs().max() / max(tensor.abs().max().item(), self._floor(name, largest))).item()
            for name, tensor in results.items())
        assert worst_single < FLOAT32_MARGIN, f"{self.name}: a float32 run differs by {worst_single:.1e}"
        return f"differences {worst_difference:.0e}, float32 {worst_single:.0e}"

    def _floor(self, name: str, largest: float) -> float:
        return GRADIENT_FLOOR * largest if name.startswith("grad.") else 1e-30

    def write(self, results: dict[str, Tensor]) -> int:
        """Returns the file's size in bytes."""
        tensors = {f"param.{name}": p.detach() for name, p in self.parameters.items()} | results
        arrays = {name: t.contiguous().numpy().astype(np.float32) for name, t in tensors.items()}
        arrays |= {"batch.inputs": self.inputs.numpy(), "batch.targets": self.targets.numpy()}
        versions = f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
        path = CASES / f"{self.name}.safetensors"
        save_file(arrays, path, metadata={"versions": versions})
        return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="Float64 reference values for `seqtrain probe`.")
    parser.add_argument("names", nargs="*", help="cases; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    check_functions()
    total = 0
    checked = set()
    for name in arguments.names or sorted(path.stem for path in CASES.glob("*.yaml")):
        case = Case.drawn(name)
        for reference in [block.reference for block in case.model.blocks]:
            if reference is not None and reference not in checked:
                reference.check()
                checked.add(reference)
        results = case.results()
        figures = case.check(results)
        size = 0 if arguments.check else case.write(results)
        total += size
        count = sum(p.numel() for p in case.parameters.values())
        print(f"{name:24} loss {results['loss']:.4f}  {count:6} parameters  {size:7} bytes  {figures}")
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
