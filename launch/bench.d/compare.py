"""Runs seqtrain and PyTorch in turn and prints their ratio; then pipelines against one rank. See launch/bench."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / ".build/release/seqtrain"
MODELS = ["llama", "lstm", "gru", "lstm_word"]


def seqtrain(model, *arguments, ranks=1, steps=5):
    command = [BINARY, "bench", ROOT / f"configs/bench/{model}.yaml", "--json", "--warmup", 2, "--steps", steps,
               "parallel.threads=1", *arguments]
    if ranks > 1:
        command = [ROOT / "launch/run", "-n", ranks] + command[1:]
    output = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def torch(python, model):
    command = [python, str(ROOT / "launch/bench.d/torch_rivals.py"), model, "--threads", "1", "--warmup", "2", "--steps", "5"]
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def median(values):
    return statistics.median(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("models", nargs="*", default=MODELS)
    options = parser.parse_args()
    models = options.models or MODELS

    print(f"{'model, 1 thread':<20}{'seqtrain tok/s':>16}{'GFLOP/s':>9}{'of peak':>9}{'torch tok/s':>13}{'ratio':>8}")
    for model in models:
        ours, rival = [], []
        for _ in range(options.rounds):
            ours.append(seqtrain(model))
            if options.torch:
                rival.append(torch(options.torch, model))
        speed = median([run["tokens_per_second"] for run in ours])
        # Peak and model alternate with the machine's moods; each run is held against its own peak.
        share = median([run["utilisation"] for run in ours])
        line = f"{model:<20}{speed:>16.0f}{median([run['flops_per_second'] for run in ours]) / 1e9:>9.1f}{share:>9.0%}"
        if rival:
            theirs = median([run["tokens_per_second"] for run in rival])
            ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, rival)]
            line += f"{theirs:>13.0f}{median(ratios):>8.2f}"
        print(line, flush=True)

    print(f"\n{'pipeline, m = 8':<20}{'tok/s':>10}{'speed-up':>10}{'ideal':>8}{'reached':>9}")
    for model in [name for name in models if name in ("llama", "lstm")]:
        # Equal stages, so that the bound m·p / (m + p − 1) applies: layers of equal cost, split evenly by the plan.
        rows = {1: [], 2: [], 4: []}
        for _ in range(options.rounds):
            for ranks in rows:
                rows[ranks].append(seqtrain(model, "parallel.micro_batches=8", ranks=ranks))
        single = median([run["tokens_per_second"] for run in rows[1]])
        for ranks, runs in rows.items():
            speed = median([run["tokens_per_second"] for run in runs])
            cores = min(ranks, len(os.sched_getaffinity(0)))
            ideal = cores * 8 / (8 + cores - 1)
            print(f"{model + f', {ranks} ranks':<20}{speed:>10.0f}{speed / single:>10.2f}{ideal:>8.2f}{speed / single / ideal:>9.0%}",
                  flush=True)


if __name__ == "__main__":
    main()
