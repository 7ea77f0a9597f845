#!/usr/bin/env python3
"""A shared block on a ring of ranks against the unrolled list: speed, idle share, messages, memory.

    python3 launch/bench.d/rings.py                     2 and 4 ranks here; 4, 8 and 64 by simulation
    python3 launch/bench.d/rings.py --simulated-only

Measured columns: tokens per second; idle share of the ranks, measured and predicted; bytes sent per step by the rank that
sends most; bytes of parameters, gradients and optimiser, and the peak of all memory, on the fullest rank. With more ranks
than cores, waiting for a core counts as idle. The simulation takes a block of as many layers as there are ranks, and
as many micro-batches or three times as many.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

from compare import BINARY, ROOT

RING, UNROLLED = ["interleaved", "breadth_first", "zb_interleaved"], ["1f1b", "zb_h1"]
MODELS = {"recursive": "", "MoR": ", router: { type: expert }"}
# What a rank keeps from step to step.
STATE = ["parameters", "gradients", "optimizer"]


def configuration(recursion, width, shared, batch, time, edges=True):
    block = f"mixer: {{ type: attention, head_count: 4 }}, mlp: {{ type: swiglu, hidden_size: {8 * width // 3} }}"
    edge = [f"{{ {block} }}"] if edges else []
    group = f"{{ recursion: {{ count: 3{recursion} }}, layers: [{{ repeat: {shared}, {block} }}] }}"
    return f"""
seed: 1
data: {{ task: group, group: s5 }}
model: {{ vocabulary_size: 256, width: {width}, layers: [{', '.join(edge + [group] + edge)}] }}
train: {{ steps: 1, batch_size: {batch}, sequence_length: {time} }}
optimizer: {{ type: adamw, betas: [0.9, 0.95], weight_decay: 0.1, clip_norm: 1.0 }}
learning_rate: {{ peak: 1e-3 }}
"""


def seqtrain(config, command, *arguments, ranks=1):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "config.yaml")
        path.write_text(config)
        program = [ROOT / "launch/run", "-n", ranks] if ranks > 1 else [BINARY]
        words = [str(word) for word in [*program, command, path, *arguments]]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def layouts():
    return [("ring", schedule) for schedule in RING] + [("contiguous", schedule) for schedule in UNROLLED]


def keys(placement, schedule, micro_batches):
    place = ["parallel.placement=ring"] if placement == "ring" else []
    return [*place, f"parallel.schedule={schedule}", f"parallel.micro_batches={micro_batches}", "parallel.threads=1"]


def measure(options):
    for name, recursion in MODELS.items():
        config = configuration(recursion, 256, 4, batch=8, time=256)
        for ranks in options.ranks:
            print(
                f"{name + f', {ranks} ranks':<28}{'tok/s':>8}{'bubble':>9}{'predicted':>11}{'MB sent':>9}{'state MB':>10}"
                f"{'peak MB':>9}", flush=True)
            for placement, schedule in layouts():
                arguments = ["--json", "--warmup", 1, "--steps", options.rounds, *keys(placement, schedule, 8)]
                figures = json.loads(seqtrain(config, "bench", *arguments, ranks=ranks))
                memory = figures["peak_memory_by_category"]
                state = max(sum(memory[part][rank] for part in STATE) for rank in range(ranks))
                print(
                    f"{placement + ', ' + schedule:<28}{figures['tokens_per_second']:>8.0f}"
                    f"{figures['bubble_fraction_measured']:>9.1%}{figures['bubble_fraction_predicted']:>11.1%}"
                    f"{max(figures['bytes_sent']) / 1e6:>9.1f}{state / 1e6:>10.1f}"
                    f"{max(figures['peak_memory_bytes']) / 1e6:>9.1f}", flush=True)
            print()


def simulate():
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    row = re.compile(r"optimiser ([\d.]+) (\S+), activations ([\d.]+) (\S+) in .* peak ([\d.]+) (\S+),")
    for name, recursion in MODELS.items():
        for ranks in (4, 8, 64):
            for micro_batches in (ranks, 3 * ranks):
                config = configuration(recursion, 64, ranks, batch=micro_batches, time=64, edges=False)
                print(
                    f"{f'{name}, {ranks} ranks, {micro_batches} micro-batches':<40}{'bubble':>8}{'state MB':>10}"
                    f"{'activations MB':>16}", flush=True)
                for placement, schedule in layouts():
                    arguments = keys(placement, schedule, micro_batches)
                    text = seqtrain(config, "plan", "--as-configured", "--ranks", ranks, *arguments)
                    bubble = float(re.search(r"predicted bubble ([\d.]+) %", text)[1])
                    rows = [tuple(float(n) * units[u] for n, u in zip(m[::2], m[1::2])) for m in row.findall(text)]
                    print(
                        f"{placement + ', ' + schedule:<40}{bubble:>7.1f}%{max(r[0] for r in rows) / 1e6:>10.2f}"
                        f"{max(r[1] for r in rows) / 1e6:>16.2f}", flush=True)
                print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps that each speed is the median of")
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--simulated-only", action="store_true")
    options = parser.parse_args()
    if not options.simulated_only:
        measure(options)
    simulate()


if __name__ == "__main__":
    main()
