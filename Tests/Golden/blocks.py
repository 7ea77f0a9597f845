"""A block of the model: norms, a mixer, an MLP, from its configuration.

`norm_placement` says which norms there are: `pre` (default) x + f(N x), with `input_layernorm` and
`post_attention_layernorm`; `post` N(x + f(x)), with `post_mixer_layernorm` and `post_mlp_layernorm`; `sandwich`
N(x + f(N x)), with all four. Attention with `qk_bias` adds `self_attn.qk_bias` [2, 1, H, K] to queries and keys
before they are rotated; `rotary_pairs` is `half` (default) or `interleaved`.

Legend: B sequences, T tokens each, D width, H query heads, G key/value heads, K head size.
"""

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

import functions
from functions import Parameters, linear

MIXERS = Path(__file__).parent / "mixers"
TORCH_CELLS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
NORMS = ("input_layernorm.", "post_mixer_layernorm.", "post_attention_layernorm.", "post_mlp_layernorm.")

Carries = dict[str, Tensor]


@dataclass
class Memory:
    """Keys (rotated) and values [B, T, G, K] of an attention layer, and their positions [T]."""

    keys: Tensor
    values: Tensor
    positions: Tensor


@dataclass
class Homes:
    """Where a block's tensors are stored: the layer's prefix, for each part that a recursion may share."""

    layer: str
    norms: str
    attention: str
    lora: str

    @classmethod
    def one(cls, layer: str) -> "Homes":
        return cls(layer, layer, layer, layer)

    def stored(self, name: str) -> str:
        """Canonical name of the block's tensor `name`."""
        if ".lora_" in name:
            home = self.lora
        elif name.startswith(NORMS):
            home = self.norms
        else:
            home = self.attention if name.startswith("self_attn.") else self.layer
        return f"{home}.{name}"


@dataclass
class Block:
    """A block's configuration with inherited defaults filled in, and its place in the model."""

    index: int  # among the blocks as applied
    width: int
    epsilon: float
    norm: str
    norm_placement: str
    residual: bool
    rotary: bool
    mixer: dict
    mlp: dict | None
    homes: Homes
    relaxation: dict | None = None
    # Whether it computes keys and values; a block that does not is given an earlier recursion's.
    owns_keys: bool = True
    # Smallest |pre-activation| a rectified unit has seen, to keep clear of the kink.
    kink_distance: float = math.inf

    @classmethod
    def configured(cls, entry: dict, model: dict, index: int, width: int, homes: Homes, **recursion) -> "Block":
        """From an entry of `layers` in the `model` section."""
        return cls(
            index=index,
            width=width,
            epsilon=float(model.get("norm_epsilon", 1e-5)),
            norm=entry.get("norm", model.get("norm", "rmsnorm")),
            norm_placement=entry.get("norm_placement", "pre"),
            residual=entry.get("residual", True),
            rotary=entry["mixer"].get("rotary", model.get("positions", "rotary") == "rotary"),
            mixer=entry["mixer"],
            mlp=entry.get("mlp"),
            homes=homes,
            **recursion)

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

    @property
    def head_sizes(self) -> tuple[int, int, int]:
        heads = self.mixer["head_count"]
        return heads, self.mixer.get("kv_head_count", heads), self.mixer.get("head_size", self.width // heads)

    # Shapes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape by canonical name, in canonical order."""
        shapes = dict(self._own_shapes())
        return {self.homes.stored(name): shape for name, shape in (shapes | self._lora_shapes(shapes)).items()}

    def _own_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.norm_placement != "post":
            yield from norm_shapes(self.norm, "input_layernorm", self.width)
        if self.is_attention:
            heads, kv_heads, size = self.head_sizes
            bias = self.mixer.get("bias", False)
            yield from linear_shapes("self_attn.q_proj", self.width, heads * size, bias)
            if self.owns_keys:
                yield from linear_shapes("self_attn.k_proj", self.width, kv_heads * size, bias)
                yield from linear_shapes("self_attn.v_proj", self.width, kv_heads * size, bias)
            yield from linear_shapes("self_attn.o_proj", heads * size, self.width, bias)
            if self.mixer.get("qk_bias", False):
                yield "self_attn.qk_bias", (2, 1, heads, size)
        elif self.reference is not None:
            yield from self.reference.shapes(self.mixer, self.width).items()
        else:
            for name, tensor in self._cell().state_dict().items():
                yield f"mixer.{name}", tuple(tensor.shape)
            if self.mixer.get("output_projection", False):
                yield from linear_shapes("mixer.o_proj", self.hidden_size * self.directions, self.width, False)
        width = self.output_width
        if self.norm_placement != "pre":
            yield from norm_shapes(self.norm, "post_mixer_layernorm", width)
        if self.mlp is None:
            return
        kind, hidden = self.mlp.get("type", "swiglu"), self.mlp["hidden_size"]
        bias = self.mlp.get("bias", kind != "swiglu")
        if self.norm_placement != "post":
            yield from norm_shapes(self.norm, "post_attention_layernorm", width)
        for name in ("gate_proj", "up_proj") if kind == "swiglu" else ("up_proj",):
            yield from linear_shapes(f"mlp.{name}", width, hidden, bias)
        yield from linear_shapes("mlp.down_proj", hidden, width, bias)
        if self.norm_placement != "pre":
            yield from norm_shapes(self.norm, "post_mlp_layernorm", width)

    def _lora_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """A pair of factors for every matrix that `relaxation` names."""
        if self.relaxation is None:
            return {}
        result = {}
        for part in ("self_attn", "mlp"):
            for target in self.relaxation.get("targets", ["q_proj", "v_proj"]):
                if f"{part}.{target}.weight" in shapes:
                    outputs, inputs = shapes[f"{part}.{target}.weight"]
                    rank = min(self.relaxation["rank"], inputs, outputs)
                    result[f"{part}.{target}.lora_A.weight"] = (rank, inputs)
                    result[f"{part}.{target}.lora_B.weight"] = (outputs, rank)
        return result

    def own(self, parameters: Parameters) -> Parameters:
        """The block's tensors by their names in it."""
        names = dict(self._own_shapes())
        return {name: parameters[self.homes.stored(name)] for name in names | self._lora_shapes(names)}

    # Forward

    def forward(
        self, parameters: Parameters, x: Tensor, positions: Tensor | None = None, memory: Memory | None = None
    ) -> tuple[Tensor, Carries, Memory | None]:
        """The block's output for x [B, T, D] at `positions` [T] (0, 1, … if absent), its final state, and an
        attention layer's keys and values.

        With `memory`, attention reads its keys and values. A block that computes keys, too, replaces those at
        its positions; `memory` then has all positions in order.
        """
        own = self.own(parameters)
        positions = torch.arange(x.shape[1]) if positions is None else positions
        carries: Carries = {}
        normed = x if self.norm_placement == "post" else self._normalised(own, "input_layernorm", x)
        if self.is_attention:
            mixed, memory = self._attention(own, normed, positions, memory)
        elif self.reference is not None:
            mixed, carries = self.reference.forward(self.mixer, own, normed)
        else:
            mixed, carries = self._recurrent(own, normed)
        x = x + mixed if self.residual else mixed
        if self.norm_placement != "pre":
            x = self._normalised(own, "post_mixer_layernorm", x)
        if self.mlp is not None:
            normed = x if self.norm_placement == "post" else self._normalised(own, "post_attention_layernorm", x)
            fed = self._feed_forward(own, normed)
            x = x + fed if self.residual else fed
            if self.norm_placement != "pre":
                x = self._normalised(own, "post_mlp_layernorm", x)
        return x, carries, memory

    def _normalised(self, own: Parameters, name: str, x: Tensor) -> Tensor:
        return normalised(own, self.norm, name, x, self.epsilon)

    def _linear(self, own: Parameters, name: str, x: Tensor) -> Tensor:
        return linear(own, name, x, (self.relaxation or {}).get("scale", 2))

    def _attention(
        self, own: Parameters, x: Tensor, positions: Tensor, memory: Memory | None
    ) -> tuple[Tensor, Memory]:
        heads, kv_heads, size = self.head_sizes
        bias = own.get("self_attn.qk_bias")

        def projected(name: str, count: int) -> Tensor:
            return self._linear(own, f"self_attn.{name}_proj", x).reshape(*x.shape[:2], count, size)

        def turned(y: Tensor) -> Tensor:
            if not self.rotary:
                return y
            interleaved = self.mixer.get("rotary_pairs", "half") == "interleaved"
            return functions.rotate(y, float(self.mixer.get("rope_theta", 10_000)), positions, interleaved)

        q = projected("q", heads)
        q = turned(q if bias is None else q + bias[0])
        if self.owns_keys:
            k, v = projected("k", kv_heads), projected("v", kv_heads)
            if bias is not None:
                # The bias is one of query heads: keys are repeated first.
                k = functions.repeated(k, heads) + bias[1]
            k = turned(k)
            if memory is None:
                memory = Memory(k, v, positions)
            else:
                memory = Memory(
                    memory.keys.index_copy(1, positions, k), memory.values.index_copy(1, positions, v),
                    memory.positions)
        o = functions.causal_attention(
            q, memory.keys, memory.values, self.mixer.get("window"), positions, memory.positions)
        return self._linear(own, "self_attn.o_proj", o.flatten(2)), memory

    def _cell(self) -> torch.nn.Module:
        kind = TORCH_CELLS[self.mixer["type"]]
        options = {"nonlinearity": self.mixer.get("nonlinearity", "tanh")} if kind is torch.nn.RNN else {}
        return kind(
            self.width, self.hidden_size, num_layers=self.mixer.get("num_layers", 1),
            bias=self.mixer.get("bias", True), bidirectional=self.directions == 2, batch_first=True, **options)

    def _recurrent(self, own: Parameters, x: Tensor) -> tuple[Tensor, Carries]:
        module = self._cell().to(x.dtype)
        cell = {name: own[f"mixer.{name}"] for name in module.state_dict()}
        y, state = torch.func.functional_call(module, cell, (x,))
        if self.mixer.get("nonlinearity") == "relu":
            self.kink_distance = min(self.kink_distance, functions.relu_margin(cell, x.detach(), y.detach()))
        if self.mixer.get("output_projection", False):
            y = linear(own, "mixer.o_proj", y)
        if self.directions == 2:
            return y, {}
        return y, dict(zip(("h", "c"), state if isinstance(state, tuple) else (state,)))

    def _feed_forward(self, own: Parameters, x: Tensor) -> Tensor:
        kind = self.mlp.get("type", "swiglu")
        up = self._linear(own, "mlp.up_proj", x)
        if kind == "swiglu":
            hidden = functions.silu(self._linear(own, "mlp.gate_proj", x)) * up
        elif kind == "relu":
            self.kink_distance = min(self.kink_distance, up.detach().abs().min().item())
            hidden = up.clamp(min=0)
        else:
            hidden = {"gelu": functions.gelu, "gelu_tanh": functions.gelu_tanh}[kind](up)
        return self._linear(own, "mlp.down_proj", hidden)


def norm_shapes(kind: str, name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if kind != "none":
        yield f"{name}.weight", (width,)
    if kind == "layernorm":
        yield f"{name}.bias", (width,)


def linear_shapes(name: str, inputs: int, outputs: int, bias: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def normalised(parameters: Parameters, kind: str, name: str, x: Tensor, epsilon: float) -> Tensor:
    if kind == "none":
        return x
    if kind == "rmsnorm":
        return functions.rms_norm(x, parameters[f"{name}.weight"], epsilon)
    return functions.layer_norm(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], epsilon)


def mixer_reference(kind: str) -> ModuleType:
    """`mixers/<kind>.py`; README.md says what it defines."""
    assert (MIXERS / f"{kind}.py").exists(), f"no reference for mixer {kind!r}: {MIXERS / kind}.py is missing"
    return importlib.import_module(f"mixers.{kind}")
