#!/usr/bin/env python3
"""Language models whose depth is a shared block, at equal training FLOPs, on four ranks: loss, speed, parameters.

    python3 launch/bench.d/recursion.py --train TEXT --valid TEXT      all models, trained and timed
    python3 launch/bench.d/recursion.py                                only what routing saves in time

A block, then six applications of two shared ones in three recursions, then a block (R = 3, middle cycle of arXiv 2507.10524),
against eight blocks of their own: width 128, bytes, AdamW, a learning rate for all. Every model has the same FLOPs to
spend, forward and backward, so that cheaper tokens are more tokens. Losses are those of the whole validation text;
with expert choice once by the rule of generation, once by that of training, which compares tokens with later ones.

Routing saves FLOPs; the second table is what it saves in time, step by step, one rank, where matrix products dominate.
"""

import argparse
import contextlib
import json
import pathlib
import re
import statistics
import subprocess
import tempfile

from compare import BINARY, ROOT

RECURSIONS, SHARED = 3, 2
EXPERT = "{ type: expert }"
TOKEN = "{ type: token, coefficient: 0.1, z_loss: 1e-5 }"
MODELS = {
    "vanilla": None,
    "recursive": "",
    "relaxed, rank 8": ", relaxation: { rank: 8, targets: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj] }",
    # The gates without the choice: what routing itself brings shows against this.
    "MoR, all tokens": ", router: { type: expert, capacity: [1, 1, 1] }",
    "MoR, expert choice": f", router: {EXPERT}",
    "MoR, shared keys": f", share_key_values: true, router: {EXPERT}",
    "MoR, token choice": f", router: {TOKEN}",
}


def layers(recursion, width, heads):
    block = f"mixer: {{ type: attention, head_count: {heads} }}, mlp: {{ type: swiglu, hidden_size: {8 * width // 3} }}"
    if recursion is None:
        middle = f"{{ repeat: {RECURSIONS * SHARED}, {block} }}"
    else:
        group = f"recursion: {{ count: {RECURSIONS}{recursion} }}"
        middle = f"{{ {group}, layers: [{{ repeat: {SHARED}, {block} }}] }}"
    return f"[{{ {block} }}, {middle}, {{ {block} }}]"


def configuration(recursion, options, directory, steps=1, width=128, heads=4, batch=8, time=256):
    # Data that nobody reads, where only time counts.
    data = "{ task: group, group: s5 }"
    if options.train:
        train, valid = (json.dumps([str(path.resolve()) for path in paths]) for paths in (options.train, options.valid))
        data = f"{{ format: bytes, train: {train}, valid: {valid} }}"
    return f"""
seed: 1
data: {data}
model:
  vocabulary_size: 256
  width: {width}
  layers: {layers(recursion, width, heads)}
train: {{ steps: {steps}, batch_size: {batch}, sequence_length: {time} }}
optimizer: {{ type: adamw, betas: [0.9, 0.95], weight_decay: 0.1, clip_norm: 1.0 }}
learning_rate: {{ schedule: wsd, peak: 3e-3, warmup_steps: {max(1, steps // 20)}, decay_steps: {max(1, steps // 5)} }}
parallel: {{ micro_batches: 4, threads: 1, schedule: zb_h1 }}
checkpoint: {{ directory: {directory}/run }}
"""


def seqtrain(config, command, *arguments, ranks=1):
    program = [ROOT / "launch/run", "-n", ranks] if ranks > 1 else [BINARY]
    words = [str(word) for word in [*program, command, config, *arguments]]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def written(text):
    """The path of a configuration, beside which its run may lie."""
    with tempfile.TemporaryDirectory() as directory:
        config = pathlib.Path(directory, "config.yaml")
        config.write_text(text(directory))
        yield config


def bench(text, *arguments, ranks=1, steps=5):
    with written(text) as config:
        return json.loads(seqtrain(config, "bench", "--json", "--warmup", 1, "--steps", steps, *arguments, ranks=ranks))


def compare_losses(options):
    print(f"equal FLOPs: {options.teraflops:g}e12 forward and backward, {options.ranks} ranks")
    print(f"{'':<20}{'parameters':>11}{'MFLOP/token':>13}{'tokens':>10}{'steps':>7}{'loss':>8}{'ranked':>8}{'tok/s':>8}", flush=True)
    for name in options.models:
        recursion = MODELS[name]
        figures = bench(lambda at: configuration(recursion, options, at), ranks=options.ranks, steps=options.rounds)
        per_token = figures["model_flops_per_token"]
        steps = round(options.teraflops * 1e12 / (per_token * 8 * 256))
        with written(lambda at: configuration(recursion, options, at, steps)) as config:
            seqtrain(config, "train", ranks=options.ranks)
            losses = [
                float(re.search(r"loss ([\d.]+)", seqtrain(config, "eval", f"eval.routing={routing}", ranks=options.ranks))[1])
                for routing in ("causal", "ranked")]
        # Without embedding and head, 256 × 128 each.
        print(
            f"{name:<20}{figures['parameters'] - 2 * 256 * 128:>11}{per_token / 1e6:>13.3f}{steps * 8 * 256:>10}{steps:>7}"
            f"{losses[0]:>8.4f}{losses[1]:>8.4f}{figures['tokens_per_second']:>8.0f}", flush=True)


def compare_times(options):
    names = [name for name in ["recursive", "MoR, expert choice", "MoR, shared keys", "MoR, token choice"] if name in options.models]
    print(f"{'':<20}{'width':>6}{'T':>6}{'step, ms':>10}{'of dense':>10}{'FLOPs of dense':>16}", flush=True)
    for width, time in [(256, 256), (384, 256), (256, 512)]:
        # Machines have moods: every model is held against the dense one of its own round.
        rounds = [
            [
                bench(
                    lambda at: configuration(MODELS[name], options, at, width=width, heads=width // 64, batch=8, time=time),
                    "parallel.micro_batches=1", steps=2)
                for name in names]
            for _ in range(options.rounds)]
        for index, name in enumerate(names):
            of_dense = statistics.median(runs[index]["step_seconds"] / runs[0]["step_seconds"] for runs in rounds)
            flops = rounds[0][index]["model_flops_per_token"] / rounds[0][0]["model_flops_per_token"]
            milliseconds = 1e3 * statistics.median(runs[index]["step_seconds"] for runs in rounds)
            print(f"{name:<20}{width:>6}{time:>6}{milliseconds:>10.1f}{of_dense:>10.3f}{flops:>16.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", type=pathlib.Path)
    parser.add_argument("--valid", nargs="+", type=pathlib.Path)
    parser.add_argument("--teraflops", type=float, default=12)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help="steps, or rounds of all models, that a speed is the median of")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    options = parser.parse_args()
    if options.train and options.valid:
        compare_losses(options)
        print()
    compare_times(options)


if __name__ == "__main__":
    main()
