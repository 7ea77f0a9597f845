#!/usr/bin/env python3
"""Copying, reversal and addition, trained on numbers of up to 40 digits and tested on 40 and more: a Universal Transformer
with a fixed number of steps and with halting, a transformer of the same six layers without sharing, two LSTM layers.

    python3 launch/bench.d/algorithms.py                    all, two ranks
    python3 launch/bench.d/algorithms.py --tasks copy --models fixed halting

Each is trained twice, as configs/tasks/ut_reverse.yaml says: first with positions from 0, then with positions as far as
those of 80 digits; steps cost something in the second run of `halting` only, whose first is that of `fixed`. Columns: share
of digits that are right, each from the true ones before it; share of answers that are right from end to end, as the model
would write them by itself; mean steps before a position halts, of six; seconds of training. One seed, one learning rate.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile
import time

from compare import BINARY, ROOT

BLOCK = "mixer: { type: attention, head_count: 8 }, mlp: { type: gelu, hidden_size: 256 }"
# The transformer has its sinusoids at the input, once.
INPUT = f"{{ recursion: {{ count: 1, signals: {{ position: t2t, step: none }} }}, layers: [{{ {BLOCK} }}] }}"
MODELS = {
    "fixed": [],
    "halting": [],
    "transformer": [f"model.layers=[{INPUT}, {{ repeat: 5, {BLOCK} }}]"],
    "lstm": ["model.layers=[{ repeat: 2, mixer: { type: lstm } }]"],
}
SECOND = ["train.steps=1500", "learning_rate.peak=1e-3", "learning_rate.warmup_steps=50"]
HALTING = "model.layers[0].recursion.halting.loss_weight=0.01"
# Tokens of a row of n digits.
ROWS = {"copy": lambda n: 2 * n + 1, "reverse": lambda n: 2 * n + 1, "addition": lambda n: 3 * n + 3}


def seqtrain(command, task, *arguments, ranks=1):
    program = [ROOT / "launch/run", "-n", ranks] if ranks > 1 else [BINARY]
    words = [*program, command, ROOT / f"configs/tasks/ut_{task}.yaml", *arguments]
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def train(task, model, runs, options):
    """Both runs of a model, but for a first one that another has done. Returns the keys of the second, and seconds."""
    first = runs / ("fixed" if model == "halting" else model)
    keys = [*MODELS[model], "parallel.threads=1"]
    start = time.monotonic()
    if not first.exists():
        steps = [f"train.steps={options.steps}"] if options.steps else []
        seqtrain("train", task, *keys, *steps, f"checkpoint.directory={first}", ranks=options.ranks)
    keys += [*SECOND, f"checkpoint.directory={runs / model}-second",
             f"train.initialize_from={{ checkpoint: {first}, method: same }}"]
    if model != "lstm":
        keys.append(f"model.layers[0].recursion.signals.position_range={ROWS[task](80) - ROWS[task](40)}")
    if model == "halting":
        keys.append(HALTING)
    seqtrain("train", task, *keys, ranks=options.ranks)
    return keys, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--digits", nargs="+", type=int, default=[40, 60, 80])
    parser.add_argument("--steps", type=int, help="of the first run; by default those of the configuration")
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    print(f"{'':<10}{'':<13}{'digits':>7}{'right':>9}{'whole':>9}{'steps':>7}{'seconds':>9}", flush=True)
    for task in options.tasks:
        with tempfile.TemporaryDirectory() as directory:
            for model in options.models:
                keys, seconds = train(task, model, pathlib.Path(directory), options)
                for digits in options.digits:
                    length = [f"data.digits={digits}", f"data.minimum_digits={digits}",
                              f"train.sequence_length={ROWS[task](digits)}"]
                    text = seqtrain("eval", task, "--split", "test", *keys, *length, ranks=options.ranks)
                    right, whole = re.search(r"([\d.]+) % right \(([\d.]+) % of sequences\)", text).groups()
                    steps = re.search(r" steps: ([\d.]+)", text)
                    print(f"{task:<10}{model:<13}{digits:>7}{right:>8}%{whole:>8}%{steps[1] if steps else '':>7}"
                          f"{seconds:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
