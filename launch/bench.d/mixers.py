#!/usr/bin/env python3
"""Speed of sequence mixers: seqtrain, PyTorch, and the limit of the core. launch/bench.d/mixers/README.md explains.

    python3 launch/bench.d/mixers.py                    every mixer that has a rival
    python3 launch/bench.d/mixers.py --rounds 5 slstm   only these
    python3 launch/bench.d/mixers.py --lengths mingru   cost per token at 512, 4096 and 32,768 tokens, without PyTorch
"""

import argparse
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SEQTRAIN_BINARY", ROOT / ".build/release/seqtrain"))
WIDTH, LENGTH, BATCH, LAYERS, VOCABULARY = 512, 1024, 4, 4, 256
# A transcendental function of a vector costs what so many floating-point operations of a matrix product do.
FUNCTION_FLOPS = 40


def seqtrain(mixer, *arguments, steps=3, layers=LAYERS):
    """Figures of one layer: tokens a second, FLOPs a token, and the core's peak at that moment."""
    command = [BINARY, "bench", ROOT / "configs/bench/mixers.yaml", "--json", "--warmup", 1, "--steps", steps,
               f"model.layers=[{{ repeat: {layers}, residual: false, mixer: {mixer} }}]", *arguments]
    output = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    run = json.loads(output)
    flops = (run["model_flops_per_token"] - 6 * WIDTH * VOCABULARY) / layers
    return run["tokens_per_second_max"] * layers, flops, run["gemm_peak_flops_per_second"]


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


def stream_speed(byte_count):
    """Bytes a second at which the core reads a block of memory over and over."""
    import torch

    block, seconds = torch.ones(byte_count // 4), []
    for _ in range(10):
        start = time.perf_counter()
        torch.dot(block, block)
        seconds.append(time.perf_counter() - start)
    return byte_count / min(seconds)


def compare(name, rounds):
    rival = importlib.import_module(name)
    functions = rival.FUNCTIONS * FUNCTION_FLOPS
    # Weights that no cache close to the core holds: their size, how often a token reads them, and the FLOPs of those reads.
    block, reads, streamed = getattr(rival, "STREAM", (0, 0, 0))

    def limit_of(flops, peak):
        waiting = max(0, reads * block / stream_speed(block) - streamed / peak) if block else 0
        return 1 / ((flops + functions) / peak + waiting)

    figures = []
    for _ in range(rounds):
        speed, flops, peak = seqtrain(rival.MIXER)
        figures.append((speed, limit_of(flops, peak), {form: torch_speed(module) for form, module in rival.FORMS.items()}))
    # Machines have moods: each run is held against the limit and the rival of its own round.
    median = statistics.median
    ours, limit = median(speed for speed, _, _ in figures), median(limit for _, limit, _ in figures)
    reached = median(speed / limit for speed, limit, _ in figures)
    form = max(rival.FORMS, key=lambda form: median(theirs[form] for _, _, theirs in figures))
    theirs = median(theirs[form] for _, _, theirs in figures)
    ratio = median(speed / theirs[form] for speed, _, theirs in figures)
    print(f"{name:<16}{ours:>10.0f}{theirs:>10.0f}{ratio:>7.1f}x{limit:>10.0f}{reached:>8.0%}"
          f"  {flops / 1e6:.2f} MFLOP, {functions / (flops + functions):.0%} functions; PyTorch: {form}", flush=True)


def lengths(name):
    rival = importlib.import_module(name)
    if not getattr(rival, "LINEAR", True):
        return
    figures = []
    for length in (512, 4096, 32768):
        data = ["train.batch_size=1", f"train.sequence_length={length}"]
        speed, _, _ = seqtrain(rival.MIXER, *data, steps=1, layers=2)
        figures.append(f"{length}: {1e6 / speed:.1f}")
    print(f"{name:<16}µs a token at {', '.join(figures)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many, seqtrain and PyTorch in turn")
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
    print(f"{'':<16}{'seqtrain':>10}{'PyTorch':>10}{'':>8}{'limit':>10}{'reached':>8}")
    for name in names:
        compare(name, options.rounds)


if __name__ == "__main__":
    main()
