"""PyTorch's side of the comparisons in launch/bench.

Each model is the one that the configuration of the same name under configs/bench/ describes: same sizes, same
initial scale, same optimiser, float32, byte-like random tokens. One JSON object on standard output per run:

    python3 torch_rivals.py lstm --threads 1 --warmup 2 --steps 8
    {"model": "lstm", "tokens_per_second": ..., "tokens_per_second_min": ..., "parameters": ..., ...}

A step is forward, mean cross-entropy, backward, clipping of the gradient norm where the configuration clips, and
the update. The median step counts. Only torch is needed; written for 2.13.
"""

import argparse
import json
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("torch_rivals.py: PyTorch is not installed; pip install torch==2.13.0")

from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width, epsilon=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Causal attention with rotary positions (pairs split in halves, as in Llama), by torch's fused kernel."""

    def __init__(self, width, head_count):
        super().__init__()
        self.head_count, self.head_size = head_count, width // head_count
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, cosine, sine):
        batch, length, width = x.shape

        def heads(projection):
            return projection(x).view(batch, length, self.head_count, self.head_size).transpose(1, 2)

        def rotated(y):
            first, second = y.chunk(2, dim=-1)
            return y * cosine + torch.cat((-second, first), dim=-1) * sine

        y = F.scaled_dot_product_attention(
            rotated(heads(self.q_proj)), rotated(heads(self.k_proj)), heads(self.v_proj), is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, width))


class SwiGLU(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Llama(nn.Module):
    def __init__(self, vocabulary, width, layer_count, head_count, hidden, length):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList((RMSNorm(width), Attention(width, head_count), RMSNorm(width), SwiGLU(width, hidden)))
            for _ in range(layer_count))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        size = width // head_count
        frequency = 10_000 ** (-torch.arange(0, size, 2) / size)
        angle = torch.outer(torch.arange(length), frequency).repeat(1, 2)
        self.register_buffer("cosine", angle.cos())
        self.register_buffer("sine", angle.sin())
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for attention_norm, attention, mlp_norm, mlp in self.blocks:
            x = x + attention(attention_norm(x), self.cosine, self.sine)
            x = x + mlp(mlp_norm(x))
        return self.head(self.norm(x))


class Recurrent(nn.Module):
    """Embedding, torch's own stack, head: the model of torch's word language example, without its dropout."""

    def __init__(self, cell, vocabulary, width, layer_count):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.stack = cell(width, width, layer_count, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.stack(self.embedding(tokens))[0])


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


# name: (batch, length, vocabulary, model, optimiser, clip norm)
MODELS = {
    "llama": (8, 256, 256, lambda: Llama(256, 512, 8, 8, 1376, 256), adamw, 1.0),
    "lstm": (32, 128, 256, lambda: Recurrent(nn.LSTM, 256, 512, 2), adamw, 1.0),
    "gru": (32, 128, 256, lambda: Recurrent(nn.GRU, 256, 512, 2), adamw, 1.0),
    "lstm_word": (20, 35, 10_000, lambda: Recurrent(nn.LSTM, 10_000, 650, 2), sgd, 0.25),
}


def measure(name, threads, warmup, steps):
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    batch, length, vocabulary, build, optimiser_for, clip = MODELS[name]
    model = build()
    optimiser = optimiser_for(model.parameters())
    tokens = torch.randint(vocabulary, (batch, length + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)

    seconds = []
    for _ in range(warmup + steps):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[warmup:])
    count = batch * length
    return {
        "model": name,
        "tokens_per_second": count / statistics.median(seconds),
        "tokens_per_second_min": count / seconds[-1],
        "tokens_per_second_max": count / seconds[0],
        "step_seconds": statistics.median(seconds),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "final_loss": loss.item(),
        "threads": threads,
        "torch": torch.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description="Measure PyTorch on a model of configs/bench/.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=8, help="steps measured; the median counts")
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.threads, options.warmup, options.steps)))


if __name__ == "__main__":
    main()
