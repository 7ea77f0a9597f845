"""PyTorch's own pipelining on the transformer of configs/bench/llama.yaml, for launch/bench: gloo, one thread a rank.

    python3 torch_pipeline.py --schedule 1F1B --ranks 2 --micro-batches 8
    {"schedule": "1F1B", "ranks": 2, "tokens_per_second": ..., ...}

Stages are equal runs of blocks; the first has the embedding, the last the norm and the head. A step is the schedule's
forwards and backwards and the update on every rank, without clipping. The median step of rank 0 counts.
"""

import argparse
import json
import os
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("torch_pipeline.py: PyTorch is not installed; pip install torch==2.13.0")

import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional as F

from torch_rivals import Llama

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, LENGTH, BATCH = 256, 512, 8, 8, 1376, 256, 8


class Stage(nn.Module):
    """The part of the model that one rank runs."""

    def __init__(self, model, rank, ranks):
        super().__init__()
        per_stage = LAYERS // ranks
        self.is_first, self.is_last = rank == 0, rank == ranks - 1
        self.embedding = model.embedding if self.is_first else None
        self.blocks = model.blocks[rank * per_stage:(rank + 1) * per_stage]
        self.norm, self.head = (model.norm, model.head) if self.is_last else (None, None)
        self.register_buffer("cosine", model.cosine)
        self.register_buffer("sine", model.sine)

    def forward(self, x):
        if self.is_first:
            x = self.embedding(x)
        for attention_norm, attention, feed_norm, feed in self.blocks:
            x = x + attention(attention_norm(x), self.cosine, self.sine)
            x = x + feed(feed_norm(x))
        return self.head(self.norm(x)) if self.is_last else x


def loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def run(rank, options, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=options.ranks)
    torch.manual_seed(1)
    stage = Stage(Llama(VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, LENGTH), rank, options.ranks)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    seconds = []
    if options.ranks == 1:
        for _ in range(options.warmup + options.steps):
            start = time.perf_counter()
            for x, y in zip(inputs.chunk(options.micro_batches), targets.chunk(options.micro_batches)):
                (loss(stage(x), y) / options.micro_batches).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - start)
    else:
        kind = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}[options.schedule]
        pipe = kind(
            PipelineStage(stage, rank, options.ranks, torch.device("cpu")), n_microbatches=options.micro_batches,
            loss_fn=loss)
        for _ in range(options.warmup + options.steps):
            dist.barrier()
            start = time.perf_counter()
            if rank == 0:
                pipe.step(inputs)
            elif rank == options.ranks - 1:
                pipe.step(target=targets)
            else:
                pipe.step()
            optimizer.step()
            optimizer.zero_grad()
            dist.barrier()
            seconds.append(time.perf_counter() - start)
    if rank == 0:
        results.put(statistics.median(seconds[options.warmup:]))
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedule", choices=["GPipe", "1F1B"], default="1F1B")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--port", type=int, default=29511)
    options = parser.parse_args()
    if LAYERS % options.ranks:
        parser.error(f"--ranks {options.ranks} does not divide the {LAYERS} layers")
    context = mp.get_context("spawn")
    results = context.Queue()
    mp.spawn(run, args=(options, results), nprocs=options.ranks)
    median = results.get()
    print(json.dumps({
        "schedule": options.schedule, "ranks": options.ranks, "micro_batches": options.micro_batches,
        "tokens_per_second": BATCH * LENGTH / median, "step_seconds": median}))


if __name__ == "__main__":
    main()
