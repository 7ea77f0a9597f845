#!/usr/bin/env python3
"""A language model per mixer at equal parameters and tokens, on two ranks: validation loss, speed, memory.

    python3 launch/bench.d/language.py TEXT [TEXT ...]                 a dozen mixers
    python3 launch/bench.d/language.py TEXT --mixers mamba2 gla        only these

Four blocks of width 128, each a mixer and a SwiGLU whose hidden size makes up what the mixer leaves of the parameters;
bytes, batch 16, 128 tokens, AdamW, the same data in the same order for all.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from compare import BINARY, ROOT

WIDTH, LAYERS, TARGET, STEPS = 128, 4, 1_000_000, 250
MIXERS = {
    "attention": "{ type: attention, head_count: 4 }",
    "lstm": "{ type: lstm }",
    "slstm": "{ type: slstm, head_count: 4 }",
    "mingru": "{ type: mingru }",
    "s4d": "{ type: s4d }",
    "lru": "{ type: lru }",
    "mamba": "{ type: mamba }",
    "rwkv4": "{ type: rwkv4_time_mix }",
    "mamba2": "{ type: mamba2, head_size: 32 }",
    "gla": "{ type: gla, head_count: 4 }",
    "mlstm": "{ type: mlstm, head_count: 4 }",
    "gated_deltanet": "{ type: gated_deltanet, head_count: 4 }",
}


def configuration(mixer, hidden, texts, directory):
    return f"""
seed: 1
data: {{ format: bytes, text: {json.dumps(texts)}, split: [0.9, 0.1] }}
model:
  vocabulary_size: 256
  width: {WIDTH}
  layers: [{{ repeat: {LAYERS}, mixer: {mixer}, mlp: {{ hidden_size: {hidden} }} }}]
train: {{ steps: {STEPS}, batch_size: 16, sequence_length: 128 }}
optimizer: {{ type: adamw, betas: [0.9, 0.95], weight_decay: 0.1, clip_norm: 1.0 }}
learning_rate: {{ schedule: cosine, peak: 2e-3, warmup_steps: 25, minimum: 1e-4 }}
parallel: {{ micro_batches: 4, threads: 1, schedule: zb_h1 }}
checkpoint: {{ directory: {directory}/run }}
eval: {{ every: {STEPS}, batches: 16 }}
"""


def run(mixer, hidden, texts, command, *arguments, ranks=1):
    with tempfile.TemporaryDirectory() as directory:
        config = pathlib.Path(directory, "config.yaml")
        config.write_text(configuration(mixer, hidden, texts, directory))
        program = [ROOT / "launch/run", "-n", ranks] if ranks > 1 else [BINARY]
        words = [*program, command, config, *arguments]
        output = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
        metrics = pathlib.Path(directory, "run/metrics.jsonl")
        return output.stdout, [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


def bench(mixer, hidden, texts, ranks):
    return json.loads(run(mixer, hidden, texts, "bench", "--json", "--warmup", 1, "--steps", 4, ranks=ranks)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), choices=MIXERS)
    options = parser.parse_args()
    texts = [str(pathlib.Path(text).resolve()) for text in options.texts]
    print(f"{'mixer':<16}{'parameters':>11}{'MLP':>6}{'valid loss':>12}{'tok/s, 2 ranks':>16}{'peak MiB':>10}", flush=True)
    for name in options.mixers:
        mixer = MIXERS[name]
        smallest = bench(mixer, 8, texts, 1)["parameters"]
        hidden = 8 + max(0, round((TARGET - smallest) / (3 * WIDTH * LAYERS)))
        figures = bench(mixer, hidden, texts, 2)
        _, metrics = run(mixer, hidden, texts, "train", ranks=2)
        loss = [line["validation_loss"] for line in metrics if "validation_loss" in line][-1]
        print(
            f"{name:<16}{figures['parameters']:>11}{hidden:>6}{loss:>12.4f}{figures['tokens_per_second']:>16.0f}"
            f"{max(figures['peak_memory_bytes']) / 2**20:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
