#!/usr/bin/env python3
"""Speed of sequence mixers: seqtrain, PyTorch, and the limit of the core. launch/bench.d/mixers/README.md explains.

    python3 launch/bench.d/mixers.py                    every mixer that has a rival
    python3 launch/bench.d/mixers.py --rounds 5 slstm   only these
    python3 launch/bench.d/mixers.py --lengths mingru   cost per token from 512 to 32,768 tokens, without PyTorch
"""

import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SEQTRAIN_BINARY", ROOT / ".build/release/seqtrain"))
WIDTH, LENGTH, BATCH, LAYERS, VOCABULARY = 512, 1024, 4, 4, 256
# A transcendental function of a vector costs what so many floating-point operations of a matrix product do.
FUNCTION_FLOPS = 40


def seqtrain(mixer, *arguments):
    """Figures of one layer: tokens a second, FLOPs a token, and the core's peak at that moment."""
    command = [BINARY, "bench", ROOT / "configs/bench/mixers.yaml", "--json", "--warmup", 1, "--steps", 3,
               f"model.layers=[{{ repeat: {LAYERS}, residual: false, mixer: {mixer} }}]", *arguments]
    output = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    run = json.loads(output)
    flops = (run["model_flops_per_token"] - 6 * WIDTH * VOCABULARY) / LAYERS
    return run["tokens_per_second_max"] * LAYERS, flops, run["gemm_peak_flops_per_second"]


def torch_speed(form):
    """Tokens a second of forward and backward, input gradient included, the second of two runs."""
    import torch

    torch.manual_seed(1)
    module = form(WIDTH)
    x = torch.randn(BATCH, LENGTH, WIDTH, requires_grad=True)
    for _ in range(2):
        start = time.perf_counter()
        y = module(x)
        y.backward(torch.ones_like(y))
        seconds = time.perf_counter() - start
    return BATCH * LENGTH / seconds


def compare(name, rounds):
    rival = importlib.import_module(name)
    ours, theirs, flops, peak = 0.0, {form: 0.0 for form in rival.FORMS}, 0.0, 0.0
    for _ in range(rounds):
        speed, flops, now = seqtrain(rival.MIXER)
        ours, peak = max(ours, speed), max(peak, now)
        for form, module in rival.FORMS.items():
            theirs[form] = max(theirs[form], torch_speed(module))
    form = max(theirs, key=theirs.get)
    functions = rival.FUNCTIONS * FUNCTION_FLOPS
    limit = peak / (flops + functions)
    binding = f"{functions / (flops + functions):.0%} functions"
    print(f"{name:<16}{ours:>10.0f}{theirs[form]:>10.0f}{ours / theirs[form]:>7.1f}x{limit:>10.0f}{ours / limit:>7.0%}"
          f"  {flops / 1e6:.2f} MFLOP, {binding}; PyTorch: {form}", flush=True)


def lengths(name):
    mixer = importlib.import_module(name).MIXER
    figures = []
    for length in (512, 2048, 8192, 32768):
        speed, _, _ = seqtrain(mixer, "train.batch_size=1", f"train.sequence_length={length}")
        figures.append(f"{length}: {1e6 / speed:.1f}")
    print(f"{name:<16}µs a token at {', '.join(figures)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many, seqtrain and PyTorch in turn")
    parser.add_argument("--lengths", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    folder = pathlib.Path(__file__).parent / "mixers"
    sys.path.insert(0, str(folder))
    names = options.names or sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if options.lengths:
        for name in names:
            lengths(name)
        return
    import torch

    torch.set_num_threads(1)
    print(f"one thread, width {WIDTH}, {BATCH} × {LENGTH} tokens, forward and backward, tokens/s a layer")
    print(f"{'':<16}{'seqtrain':>10}{'PyTorch':>10}{'':>8}{'limit':>10}{'reached':>7}")
    for name in names:
        compare(name, options.rounds)


if __name__ == "__main__":
    main()
