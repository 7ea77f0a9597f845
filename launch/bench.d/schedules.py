"""Every schedule on two ranks, measured beside its prediction; then PyTorch's own pipelining. See launch/bench.

Columns: tokens per second; idle share of the ranks, measured, and predicted from a profile of the layers; the
pipeline's time in a simulation of the lowered schedule with the measured durations of its actions, over the measured
time; peak memory of the fuller rank, measured and planned.
"""

import argparse
import json
import os
import statistics
import subprocess

from compare import ROOT, median, seqtrain

MODELS = ["pipeline_lstm", "llama", "pipeline_hybrid"]
# Schedule, micro-batches, chunks. Few micro-batches are where chunks pay.
SCHEDULES = [(name, 8, 1) for name in [
    "gpipe", "1f1b", "interleaved", "breadth_first", "zb_h1", "zb_h2", "zb_v", "v_half", "v_min", "dualpipe_v"]]
SCHEDULES += [(name, m, k) for m, k in [(8, 4), (2, 1), (2, 4)] for name in ["1f1b", "zb_h1"]]


def torch_pipeline(python, ranks, schedule):
    command = [python, str(ROOT / "launch/bench.d/torch_pipeline.py"), "--ranks", str(ranks), "--schedule", schedule]
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()

    for model in options.models or MODELS:
        print(f"{model + ', 2 ranks':<28}{'tok/s':>8}{'bubble':>9}{'predicted':>11}{'simulated/measured':>20}{'peak MiB':>10}{'planned':>9}")
        rows = {(None, 8, 1): []} | {key: [] for key in SCHEDULES}
        for _ in range(options.rounds):
            for (schedule, micro_batches, chunks), runs in rows.items():
                layout = [f"parallel.chunks={chunks}", f"parallel.micro_batches={micro_batches}"]
                if schedule:
                    layout.append(f"parallel.schedule={schedule}")
                runs.append(seqtrain(model, *layout, ranks=2 if schedule else 1, steps=3))
        for (schedule, micro_batches, chunks), runs in rows.items():
            def figure(name):
                return median([run[name] for run in runs])
            label = f"{schedule}, m = {micro_batches}, k = {chunks}" if schedule else "1 rank"
            ratio = median([run["pipeline_seconds_simulated"] / run["pipeline_seconds_measured"] for run in runs])
            print(
                f"{label:<28}{figure('tokens_per_second'):>8.0f}{figure('bubble_fraction_measured'):>9.1%}"
                f"{figure('bubble_fraction_predicted'):>11.1%}{ratio:>20.3f}"
                f"{max(runs[0]['peak_memory_bytes']) / 2**20:>10.0f}{max(runs[0]['planned_memory_bytes']) / 2**20:>9.0f}",
                flush=True)
        print()

    if options.torch:
        print(f"{'PyTorch (gloo), llama':<28}{'tok/s':>8}")
        for ranks, schedule in [(1, "1F1B"), (2, "GPipe"), (2, "1F1B")]:
            speeds = [torch_pipeline(options.torch, ranks, schedule)["tokens_per_second"] for _ in range(options.rounds)]
            label = f"{schedule}, {ranks} ranks" if ranks > 1 else "1 rank"
            print(f"{label:<28}{statistics.median(speeds):>8.0f}", flush=True)


if __name__ == "__main__":
    main()
