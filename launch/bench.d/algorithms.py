#!/usr/bin/env python3
"""Copying, reversal and addition, trained on numbers of up to 40 digits and tested on 40 and 80: a Universal Transformer
with adaptive halting, a transformer of the same six layers without sharing, an LSTM.

    python3 launch/bench.d/algorithms.py                    all, two ranks
    python3 launch/bench.d/algorithms.py --tasks copy --steps 500

Columns: share of digits that are right, each from the true ones before it; share of answers that are right from end to
end, as the model would write them by itself; mean steps before a position halts, of six. One seed, one learning rate.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

from compare import BINARY, ROOT

BLOCK = "mixer: { type: attention, head_count: 4 }, mlp: { type: gelu, hidden_size: 256 }"
# The transformer has its sinusoids at the input, once.
INPUT = f"{{ recursion: {{ count: 1, signals: {{ position: t2t, step: none }} }}, layers: [{{ {BLOCK} }}] }}"
MODELS = {
    "universal": [],
    "transformer": [f"model.layers=[{INPUT}, {{ repeat: 5, {BLOCK} }}]"],
    "lstm": ["model.layers=[{ repeat: 2, mixer: { type: lstm } }]"],
}
# Tokens of a row of n digits.
ROWS = {"copy": lambda n: 2 * n + 1, "reverse": lambda n: 2 * n + 1, "addition": lambda n: 3 * n + 3}


def seqtrain(command, task, *arguments, ranks=1):
    program = [ROOT / "launch/run", "-n", ranks] if ranks > 1 else [BINARY]
    words = [*program, command, ROOT / f"configs/tasks/ut_{task}.yaml", *arguments]
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, help="instead of the configuration's")
    options = parser.parse_args()
    print(f"{'':<10}{'':<13}{'digits':>7}{'right':>9}{'whole':>9}{'steps':>7}", flush=True)
    for task in options.tasks:
        for model in options.models:
            with tempfile.TemporaryDirectory() as directory:
                keys = [*MODELS[model], "parallel.threads=1", f"checkpoint.directory={pathlib.Path(directory, 'run')}"]
                if options.steps:
                    keys.append(f"train.steps={options.steps}")
                seqtrain("train", task, *keys, ranks=options.ranks)
                for digits in (40, 80):
                    length = [f"data.digits={digits}", f"data.minimum_digits={digits}",
                              f"train.sequence_length={ROWS[task](digits)}"]
                    text = seqtrain("eval", task, "--split", "test", *keys, *length, ranks=options.ranks)
                    right, whole = re.search(r"([\d.]+) % right \(([\d.]+) % of sequences\)", text).groups()
                    steps = re.search(r" steps: mean ([\d.]+)", text)
                    print(
                        f"{task:<10}{model:<13}{digits:>7}{right:>8}%{whole:>8}%{steps[1] if steps else '':>7}", flush=True)


if __name__ == "__main__":
    main()
