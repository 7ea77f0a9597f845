"""The `model:` section as functions of a parameter dictionary.

Legend: B sequences, T tokens each, V vocabulary, D width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

import routing
from blocks import Block, Homes, linear_shapes, norm_shapes, normalised
from functions import Parameters, linear, mean_divergence, mean_loss
from recursion import Recursion, Trace


@dataclass
class ReferenceModel:
    """The `model:` section as functions of a parameter dictionary."""

    config: dict
    groups: list[Block | Recursion] = field(default_factory=list)

    def __post_init__(self) -> None:
        width, layers, uses = self.config["width"], 0, 0
        for entry in unrolled(self.config["layers"]):
            if "recursion" in entry:
                entries = list(unrolled(entry["layers"]))
                group = routing.group(entry["recursion"], entries, self.config, layers, uses, width)
                layers, uses = layers + group.layer_count, uses + len(group.blocks)
            else:
                group = Block.configured(entry, self.config, uses, width, Homes.one(f"model.layers.{layers}"))
                layers, uses = layers + 1, uses + 1
                width = group.output_width
            self.groups.append(group)
        self.last_width = width

    @property
    def blocks(self) -> list[Block]:
        return [block for group in self.groups for block in ([group] if isinstance(group, Block) else group.blocks)]

    @property
    def final_norm(self) -> str:
        return self.config.get("final_norm", self.config.get("norm", "rmsnorm"))

    @property
    def is_causal(self) -> bool | None:
        """None where it depends on the values."""
        causal = [group.is_causal for group in self.groups]
        return None if None in causal else all(causal)

    @property
    def is_routed(self) -> bool:
        return any(isinstance(group, routing.Routed) for group in self.groups)

    @property
    def is_divisible(self) -> bool:
        """Whether equal micro-batches have the objective of the whole."""
        return all(getattr(group, "is_divisible", True) for group in self.groups)

    # Shapes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, in canonical order."""
        vocabulary, width = self.config["vocabulary_size"], self.config["width"]
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
        if self.config.get("positions") == "learned":
            shapes["model.embed_positions.weight"] = (self.config["max_positions"], width)
        for group in self.groups:
            shapes |= group.shapes()
        shapes |= dict(norm_shapes(self.final_norm, "model.norm", self.last_width))
        if not self.config.get("tie_embeddings", False):
            shapes |= dict(linear_shapes("lm_head", self.last_width, vocabulary, False))
        if self.config.get("head_bias", False):
            shapes["lm_head.bias"] = (vocabulary,)
        return shapes

    def special_values(self, parameter: str, normal: np.ndarray) -> np.ndarray | None:
        """What the parameter's mixer or group makes of normal draws, where the usual rule does not suit it."""
        for block in self.blocks:
            name = parameter.removeprefix(f"{block.homes.layer}.")
            if name != parameter and block.reference is not None and hasattr(block.reference, "draw"):
                return block.reference.draw(block.mixer, name, normal)
        for group in self.groups:
            if isinstance(group, Recursion) and parameter in group.group_shapes():
                return group.draw(parameter, normal)
        return None

    # Forward

    def logits(self, parameters: Parameters, inputs: Tensor, trace: Trace | None = None) -> Tensor:
        """[B, T, V] for token ids [B, T]; what else there is goes to `trace`."""
        trace = Trace() if trace is None else trace
        x = parameters["model.embed_tokens.weight"][inputs]
        if self.config.get("embedding_scale", False):
            x = math.sqrt(self.config["width"]) * x
        if self.config.get("positions") == "learned":
            x = x + parameters["model.embed_positions.weight"][: inputs.shape[1]]
        # Layers count from the embedding, 0; the head is the last.
        outputs = [x]
        for group in self.groups:
            x = self._skipped(outputs, x)
            if isinstance(group, Block):
                x, state, _ = group.forward(parameters, x)
                trace.exits = [group.forward(parameters, exit)[0] for exit in trace.exits]
                trace.carries |= {f"carry.{group.index}.{name}": tensor for name, tensor in state.items()}
            else:
                x = group.forward(parameters, x, trace)
            outputs.append(x)
        x = self._skipped(outputs, x)
        trace.exits = [self._projected(parameters, exit) for exit in trace.exits]
        return self._projected(parameters, x)

    def _projected(self, parameters: Parameters, x: Tensor) -> Tensor:
        x = normalised(parameters, self.final_norm, "model.norm", x, float(self.config.get("norm_epsilon", 1e-5)))
        head = {"lm_head.weight": parameters["model.embed_tokens.weight"]} | parameters
        return linear(head, "lm_head", x)

    def _skipped(self, outputs: list[Tensor], x: Tensor) -> Tensor:
        """x, the input of the next layer, with the outputs that skip to it."""
        for skip in self.config.get("skips", []):
            if skip["to"] == len(outputs):
                x = x + outputs[skip["from"]]
        return x

    def loss(self, parameters: Parameters, inputs: Tensor, targets: Tensor, trace: Trace | None = None) -> Tensor:
        """The objective: mean token loss and auxiliary terms."""
        trace = Trace() if trace is None else trace
        output = self.logits(parameters, inputs, trace)
        return self.objective(output, targets, trace)

    def objective(self, output: Tensor, targets: Tensor, trace: Trace) -> Tensor:
        """Of a forward pass that has left `output` and `trace`, which gets the exits' terms."""
        exits = [group for group in self.groups if isinstance(group, Recursion) and "early_exit" in group.config]
        weights = exits[0].exit_weights if exits else [1]
        if exits:
            share = exits[0].config["early_exit"].get("distillation", 0)
            teacher = trace.stop(output)
            for r, (logits, weight) in enumerate(zip(trace.exits, weights), start=1):
                trace.add(f"exit_{r}", weight * (1 - share) * mean_loss(logits, targets))
                if share > 0:
                    trace.add(
                        f"exit_{r}_distillation", weight * share * mean_divergence(teacher, logits, targets))
        return weights[-1] * mean_loss(output, targets) + sum(trace.terms.values())

    @property
    def kink_distance(self) -> float:
        return min((block.kink_distance for block in self.blocks), default=math.inf)


def unrolled(entries: list[dict]) -> Iterator[dict]:
    """Blocks and recursive groups, repetitions written out."""
    for entry in entries:
        for _ in range(entry.get("repeat", 1)):
            if "layers" in entry and "recursion" not in entry:
                yield from unrolled(entry["layers"])
            else:
                yield entry
