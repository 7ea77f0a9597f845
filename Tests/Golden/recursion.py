"""Groups whose blocks are applied several times: recursive and relaxed recursive transformers (arXiv 2410.20672),
the Universal Transformer (arXiv 1807.03819), recurrent depth (arXiv 2502.05171). Routed ones are in `routing.py`.

Keys of a group's `recursion:` section, with their defaults:

| key | default | meaning |
| --- | --- | --- |
| `count` | required, but for `depth` | recursions R |
| `sharing` | cycle | cycle: b0 b1 b0 b1; sequence: b0 b0 b1 b1 |
| `share_norms` | true | false: every use has its own norms of the block (not those inside mixers) |
| `share_key_values` | false | attention of recursions after the first reads the first one's keys and values |
| `relaxation.rank` | required | of the factors `lora_A` [rank, in], `lora_B` [out, rank]; at most the matrix's |
| `relaxation.scale` | 2 | y = x Wᵀ + scale (x Aᵀ) Bᵀ |
| `relaxation.targets` | [q_proj, v_proj] | of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj |
| `signals.position` | t2t with `signals` | t2t, paper or none: added to the state before every recursion |
| `signals.step` | learned with `signals` | learned, sinusoid (laid out as the position's, t2t if that is none) or none |
| `halting.type` | basic with `halting` | basic: answer = w s + (1 - w) answer; accumulated: answer + w s |
| `halting.epsilon` | 0.01 | a position halts when its probability exceeds 1 - epsilon |
| `halting.bias` | 1 | initial value |
| `halting.loss_weight` | 0.01 | of the ponder cost |
| `depth.mean` | 32 | recurrent depth: mean number of iterations p; with `fixed`, the number |
| `depth.backpropagated` | 8 | k = min(this, p) iterations have gradients, n = p - k before them have none |
| `depth.sampling` | poisson_lognormal | or fixed |
| `depth.deviation` | 0.5 | sigma of the log-normal rate |
| `depth.final_norm` | true | the model's final norm acts on the core's output, too |
| `injection` | linear | of the embedding e: linear: W [s; e]; add: s + e |
| `state` | like_init | initial state; zero (here) or a draw |
| `state_deviation` | √(2 / 5D) | of like_init, before the factor √D |
| `router` | none | see `routing.py` |
| `early_exit.mode` | uniform with `early_exit` | factors a_r of the losses: uniform 1/R; weighted r / (R (R + 1) / 2); aggressive coefficient, and 1 for R |
| `early_exit.coefficient` | 0.1 | of aggressive |
| `early_exit.distillation` | 0 | l: before R, (1 - l) CE_r + l KL(p_R, p_r) in place of CE_r; p_R is a constant |

Names: layer l of the unrolled list is `model.layers.{l}`; a shared tensor has the first use's name, and what a use
has of its own (factors, norms) that use's. The group's own tensors stand at its first layer F: `step_embedding.weight`
[R, D], `halt.weight` [1, D], `halt.bias` [1], `adapter.weight` [D, 2D]. A `depth` group counts its blocks once.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from blocks import Block, Homes, Memory, normalised
from functions import Parameters

Shapes = dict[str, tuple[int, ...]]


@dataclass
class Trace:
    """What a forward pass leaves behind besides its output."""

    carries: dict[str, Tensor] = field(default_factory=dict)
    # Weighted auxiliary terms of the objective.
    terms: dict[str, Tensor] = field(default_factory=dict)
    # Distance of the closest decision (selection, halting) from a tie.
    margin: float = math.inf
    # States after the recursions before the last, where they have losses of their own, and what became of them since.
    exits: list[Tensor] = field(default_factory=list)
    # Values behind a stop-gradient, in order. Differences of the loss agree with the gradient while they are held.
    stopped: list[Tensor] = field(default_factory=list)
    held: list[Tensor] | None = None

    def stop(self, x: Tensor) -> Tensor:
        """x as a constant."""
        self.stopped.append(x.detach() if self.held is None else self.held[len(self.stopped)])
        return self.stopped[-1]

    def add(self, term: str, value: Tensor) -> None:
        self.terms[term] = self.terms.get(term, 0) + value

    def decide(self, distance: Tensor) -> None:
        if distance.numel() > 0:
            self.margin = min(self.margin, distance.detach().abs().min().item())


@dataclass
class Recursion:
    """A group of B blocks, applied R times. `first` is its first layer in names, `index` its first use."""

    config: dict
    entries: list[dict]
    model: dict
    first: int
    index: int
    width: int

    @property
    def count(self) -> int:
        return self.config["count"]

    @property
    def shares_keys(self) -> bool:
        return self.config.get("share_key_values", False)

    @property
    def is_cycle(self) -> bool:
        return self.config.get("sharing", "cycle") == "cycle"

    def use(self, recursion: int, block: int) -> int:
        """Position of a block's use among the group's."""
        return recursion * len(self.entries) + block if self.is_cycle else block * self.count + recursion

    def homes(self, recursion: int, block: int) -> Homes:
        stored, own = (f"model.layers.{self.first + self.use(r, block)}" for r in (0, recursion))
        return Homes(layer=stored, norms=self.norm_home(stored, own), attention=stored, lora=own)

    def norm_home(self, stored: str, own: str) -> str:
        return stored if self.config.get("share_norms", True) else own

    def owns_keys(self, recursion: int) -> bool:
        return recursion == 0 or not self.shares_keys

    @cached_property
    def loops(self) -> list[list[Block]]:
        """[recursion][block]."""
        return [
            [
                Block.configured(
                    entry, self.model, self.index + self.use(r, j), self.width, self.homes(r, j),
                    relaxation=self.config.get("relaxation"), owns_keys=self.owns_keys(r))
                for j, entry in enumerate(self.entries)
            ]
            for r in range(self.count)
        ]

    @property
    def blocks(self) -> list[Block]:
        return sorted((block for loop in self.loops for block in loop), key=lambda block: block.index)

    @property
    def layer_count(self) -> int:
        """Layers it takes in names."""
        return len(self.blocks)

    @property
    def is_causal(self) -> bool | None:
        """None where it depends on the values."""
        return all(block.is_causal for block in self.blocks)

    @property
    def prefix(self) -> str:
        return f"model.layers.{self.first}"

    @property
    def signals(self) -> tuple[str, str]:
        signals = self.config.get("signals")
        if signals is None:
            return "none", "none"
        return signals.get("position", "t2t"), signals.get("step", "learned")

    def shapes(self) -> Shapes:
        shapes = self.group_shapes()
        for block in self.blocks:
            shapes |= block.shapes()
        return shapes

    def group_shapes(self) -> Shapes:
        shapes: Shapes = {}
        if self.signals[1] == "learned":
            shapes[f"{self.prefix}.step_embedding.weight"] = (self.count, self.width)
        if "halting" in self.config:
            shapes |= {f"{self.prefix}.halt.weight": (1, self.width), f"{self.prefix}.halt.bias": (1,)}
        return shapes

    def draw(self, parameter: str, normal: np.ndarray) -> np.ndarray | None:
        """Values of a parameter of the group made from standard normal ones, or None for the usual rule."""
        # Probabilities that let positions halt at all recursions, and some at none.
        if parameter.endswith("halt.weight"):
            return 0.4 * normal / math.sqrt(self.width)
        return 0.3 * normal - 0.3 if parameter.endswith("halt.bias") else None

    @property
    def exit_weights(self) -> list[float]:
        """Factor of the loss after each recursion."""
        exits, count = self.config["early_exit"], self.count
        mode = exits.get("mode", "uniform")
        if mode == "aggressive":
            return [exits.get("coefficient", 0.1)] * (count - 1) + [1]
        return [1 / count if mode == "uniform" else r / (count * (count + 1) / 2) for r in range(1, count + 1)]

    def forward(self, parameters: Parameters, x: Tensor, trace: Trace) -> Tensor:
        """[B, T, D] after all recursions."""
        if "halting" in self.config:
            return self._halting(parameters, x, trace)
        memories: dict[int, Memory] = {}
        if self.is_cycle:
            for r in range(self.count):
                x = self._step(parameters, r, self._signalled(parameters, r, x), memories, trace)
                if "early_exit" in self.config and r < self.count - 1:
                    trace.exits.append(x)
        else:
            for j in range(len(self.entries)):
                for r in range(self.count):
                    x = self._apply(parameters, r, j, x, memories, trace)
        return x

    def _step(self, parameters: Parameters, r: int, x: Tensor, memories: dict[int, Memory], trace: Trace) -> Tensor:
        for j in range(len(self.entries)):
            x = self._apply(parameters, r, j, x, memories, trace)
        return x

    def _apply(
        self, parameters: Parameters, r: int, j: int, x: Tensor, memories: dict[int, Memory], trace: Trace
    ) -> Tensor:
        block = self.loops[r][j]
        x, state, memory = block.forward(parameters, x, memory=memories.get(j) if self.shares_keys else None)
        memories[j] = memory
        trace.carries |= {f"carry.{block.index}.{name}": tensor for name, tensor in state.items()}
        return x

    # The Universal Transformer

    def _signalled(self, parameters: Parameters, r: int, x: Tensor) -> Tensor:
        """x with the signals of its positions and of the recursion."""
        position, step = self.signals
        if position != "none":
            x = x + timing_signal(x.shape[1], self.width, position).to(x.dtype)
        if step == "learned":
            x = x + math.sqrt(self.width) * parameters[f"{self.prefix}.step_embedding.weight"][r]
        if step == "sinusoid":
            layout = "t2t" if position == "none" else position
            x = x + timing_signal(self.count, self.width, layout)[r].to(x.dtype)
        return x

    def _halting(self, parameters: Parameters, s: Tensor, trace: Trace) -> Tensor:
        """Adaptive computation time: the answer, a blend of the states after each recursion."""
        halting = self.config["halting"]
        threshold = 1 - halting.get("epsilon", 0.01)
        answer, probability, remainder = torch.zeros_like(s), s.new_zeros(s.shape[:2]), s.new_zeros(s.shape[:2])
        count = s.new_zeros(s.shape[:2])
        running = torch.ones(s.shape[:2], dtype=torch.bool)
        for r in range(self.count):
            s = self._signalled(parameters, r, s)
            p = torch.sigmoid(
                s @ parameters[f"{self.prefix}.halt.weight"][0] + parameters[f"{self.prefix}.halt.bias"])
            trace.decide((probability + p - threshold)[running])
            stop = running & (probability + p > threshold)
            go = running & ~stop
            count = count + running
            remainder = torch.where(stop, 1 - probability, remainder)
            weight = torch.where(go, p, torch.where(stop, remainder, 0))[..., None]
            probability = torch.where(go, probability + p, probability)
            running = go
            s = self._step(parameters, r, s, {}, trace)
            answer = answer + weight * (s if halting.get("type", "basic") == "accumulated" else s - answer)
        trace.add("ponder", halting.get("loss_weight", 0.01) * (count + remainder).mean())
        return answer


class RecurrentDepth(Recursion):
    """A core iterated from a given state, with the group's input injected each time."""

    @property
    def depth(self) -> dict:
        return self.config["depth"]

    @property
    def count(self) -> int:
        return 1  # one set of blocks, whatever the number of iterations

    def group_shapes(self) -> Shapes:
        if self.config.get("injection", "linear") == "add":
            return {}
        return {f"{self.prefix}.adapter.weight": (self.width, 2 * self.width)}

    def forward(self, parameters: Parameters, x: Tensor, trace: Trace) -> Tensor:
        assert self.depth.get("sampling") == "fixed" and self.config.get("state") == "zero", "nothing is drawn here"
        iterations = self.depth.get("mean", 32)
        backpropagated = min(self.depth.get("backpropagated", 8), iterations)
        s = torch.zeros_like(x)
        for _ in range(iterations - backpropagated):
            s = self._iteration(parameters, s, x)
        s = trace.stop(s)
        for _ in range(backpropagated):
            s = self._iteration(parameters, s, x)
        if self.depth.get("final_norm", True):
            kind = self.model.get("final_norm", self.model.get("norm", "rmsnorm"))
            s = normalised(parameters, kind, "model.norm", s, float(self.model.get("norm_epsilon", 1e-5)))
        return s

    def _iteration(self, parameters: Parameters, s: Tensor, e: Tensor) -> Tensor:
        adapter = parameters.get(f"{self.prefix}.adapter.weight")
        s = s + e if adapter is None else torch.cat([s, e], -1) @ adapter.T
        for block in self.loops[0]:
            s = block.forward(parameters, s)[0]
        return s


def timing_signal(count: int, width: int, layout: str) -> Tensor:
    """[count, width] sinusoids of the indices 0, 1, …

    `t2t`: sines in the first half of the channels, cosines in the second, frequencies 10000^(-i / (width/2 - 1));
    `paper`: alternating, 10000^(-2i / width).
    """
    i = torch.arange(width // 2, dtype=torch.float64)
    frequency = 10_000 ** (-i / (width // 2 - 1) if layout == "t2t" else -2 * i / width)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * frequency
    if layout == "t2t":
        return torch.cat([angle.sin(), angle.cos()], -1)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
