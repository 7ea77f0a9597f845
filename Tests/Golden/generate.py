#!/usr/bin/env python3
"""Float64 reference values for `seqtrain probe`.

For every model configuration `cases/NAME.yaml` this writes `cases/NAME.safetensors`:

    param.<name>                    parameters
    batch.inputs, batch.targets     [B, T] int64, -1 is ignored
    output                          [B, T, V] logits
    loss                            sum of token losses / counted tokens, nats, and the auxiliary terms
    loss.cross_entropy, loss.<term> its parts, where there are auxiliary terms (these weighted)
    grad.<name>                     gradient of `loss`
    carry.<i>.<name>                [L, B, size] final state of the recurrent block i, as applied

It shares nothing with the Swift code but the configuration keys and the canonical parameter names:
torch.nn's recurrent cells and attention are in `blocks.py`, any other mixer in `mixers/<type>.py`, repeated
blocks in `recursion.py` and `routing.py`; all that torch does not have is written out from the papers' formulas.
Parameters are rounded to float32 first, so both sides start from equal values; results are float64 rounded to
float32.

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
import math
import platform
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file
from torch import Tensor

import functions
import recursion_checks
from functions import Parameters, mean_loss
from model import ReferenceModel
from recursion import Trace

CASES = Path(__file__).parent / "cases"

# Fraction of targets set to -1. In these cases the last sequence is ignored as a whole, too.
IGNORED_TARGETS = {"ignored_targets": 0.3, "ignored_targets_tied": 0.3, "early_exit_distilled": 0.3}

# Bar of GoldenTests.swift, and what a float32 run of the reference itself has to stay below: a case that
# is worse conditioned than that would test luck.
BAR = 2e-4
FLOAT32_MARGIN = BAR / 4
# As in GoldenTests.swift: gradients smaller than this part of the case's largest one are compared on
# that scale. Only gradients that vanish identically may be that small; `check` sees to it.
GRADIENT_FLOOR = 1e-3
# How far from a tie every decision has to be, router logits and halting probabilities, and from their kinks
# rectified units; a case is drawn again until they are.
DECISION_MARGIN = 1e-3
KINK_MARGIN = 1e-4
ATTEMPTS = 2000

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
        """The first draw whose decisions are clear: routing and rectified units may not hang on rounding."""
        config = yaml.safe_load((CASES / f"{name}.yaml").read_text())
        for attempt in range(ATTEMPTS):
            case = cls._drawn(name, config, f"{name} {attempt}" if attempt > 0 else name)
            if case.is_clear:
                return case
        raise AssertionError(f"{name}: none of {ATTEMPTS} draws has clear decisions")

    @classmethod
    def _drawn(cls, name: str, config: dict, seed: str) -> "Case":
        model = ReferenceModel(config["model"])
        draw = np.random.Generator(np.random.PCG64(zlib.crc32(seed.encode())))
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

    @property
    def is_clear(self) -> bool:
        """Whether rounding decides nothing. Equal first tokens have equal states, a tie of routers."""
        trace = Trace()
        with torch.no_grad():
            self.model.logits(self.parameters, self.inputs, trace)
        differ = not self.model.is_routed or (self.inputs[:, 0] != self.inputs[:, 1]).all().item()
        return differ and trace.margin > DECISION_MARGIN and self.model.kink_distance > KINK_MARGIN

    def results(self, dtype: torch.dtype = torch.float64, trace: Trace | None = None) -> dict[str, Tensor]:
        """`output`, `loss`, `loss.*`, `carry.*` and `grad.*`."""
        trace = Trace() if trace is None else trace
        parameters = {n: p.detach().to(dtype).requires_grad_() for n, p in self.parameters.items()}
        output = self.model.logits(parameters, self.inputs, trace)
        loss = self.model.objective(output, self.targets, trace)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        results = {"output": output, "loss": loss} | trace.carries
        if trace.terms:
            results["loss.cross_entropy"] = mean_loss(output, self.targets)
            results |= {f"loss.{name}": term for name, term in trace.terms.items()}
        results |= {f"grad.{name}": gradient for name, gradient in zip(parameters, gradients)}
        return {name: tensor.detach() for name, tensor in results.items()}

    def check(self, results: dict[str, Tensor], stopped: list[Tensor]) -> str:
        """Laws that hold whatever the numbers are. `stopped` are the constants of the gradients' pass.

        Returns a line of figures.
        """
        draw = torch.Generator().manual_seed(3)

        # Gradients: central differences along a random direction, one parameter at a time.
        worst_difference = 0.0
        largest = max(t.abs().max().item() for n, t in results.items() if n.startswith("grad."))
        with torch.no_grad():
            for name, value in self.parameters.items():
                direction = torch.randn(value.shape, generator=draw, dtype=torch.float64)
                step = 1e-5
                above, below = (
                    self.model.loss(
                        self.parameters | {name: value + s * direction}, self.inputs, self.targets,
                        Trace(held=stopped))
                    for s in (step, -step))
                difference = (above - below) / (2 * step)
                expected = (results[f"grad.{name}"] * direction).sum()
                error = (difference - expected).abs().item() / max(expected.abs().item(), largest)
                worst_difference = max(worst_difference, error)
        assert worst_difference < 1e-6, f"{self.name}: central differences differ by {worst_difference:.1e}"

        # Causality: another last token leaves the outputs before it alone.
        if self.inputs.shape[1] > 1 and self.model.is_causal is not None:
            changed = self.inputs.clone()
            changed[:, -1] = (changed[:, -1] + 1) % self.model.config["vocabulary_size"]
            with torch.no_grad():
                other = self.model.logits(self.parameters, changed)
            moved = (other - results["output"])[:, :-1].abs().max().item()
            assert (moved < 1e-12) == self.model.is_causal, (
                f"{self.name}: outputs before the change moved by {moved:.1e}")

        # Equal micro-batches: the same objective and terms in halves as in one piece.
        halves = self.model.is_divisible and len(self.inputs) % 2 == 0 and (self.targets >= 0).all()
        if halves:
            with torch.no_grad():
                parts = [
                    self.model.loss(self.parameters, *half)
                    for half in zip(self.inputs.chunk(2), self.targets.chunk(2))
                ]
            assert abs(sum(parts) / 2 - results["loss"]) < 1e-12, f"{self.name}: halves have another loss"

        # Size: what a float32 implementation can be asked for.
        for name, tensor in results.items():
            assert tensor.isfinite().all(), f"{self.name}: {name} is not finite"
            size = tensor.abs().max().item() / largest
            vanishes = size < 1e-12  # the keys' bias without rotary positions, for one
            assert not name.startswith("grad.") or vanishes or size > GRADIENT_FLOOR, (
                f"{self.name}: {name} is too small to compare")
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
    functions.check()
    recursion_checks.check()
    total = 0
    checked = set()
    for name in arguments.names or sorted(path.stem for path in CASES.glob("*.yaml")):
        case = Case.drawn(name)
        for reference in [block.reference for block in case.model.blocks]:
            if reference is not None and reference not in checked:
                reference.check()
                checked.add(reference)
        trace = Trace()
        results = case.results(trace=trace)
        figures = case.check(results, trace.stopped)
        size = 0 if arguments.check else case.write(results)
        total += size
        count = sum(p.numel() for p in case.parameters.values())
        print(f"{name:24} loss {results['loss']:.4f}  {count:6} parameters  {size:7} bytes  {figures}")
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
