"""Aaren (arXiv 2405.13956): softmax attention of one learned query, token by token.

Legend: B sequences, T tokens, D width, H heads of d channels.
"""

import math

import torch


def shapes(config: dict, width: int) -> dict[str, tuple[int, ...]]:
    projections = {f"mixer.{name}_proj.weight": (width, width) for name in "qkvo"}
    return {"mixer.query_token": (width,)} | projections


def output_width(config: dict, width: int) -> int:
    return width


def draw(config: dict, name: str, normal):
    """A query long enough to prefer some tokens."""
    return 2 * normal if name == "mixer.query_token" else None


def recurrence(scores, v):
    """Outputs and the state m, u, w for scores [B, T, H] and v [B, T, H, d]."""
    m, u, w = torch.full_like(scores[:, 0], -math.inf), torch.zeros_like(scores[:, 0]), torch.zeros_like(v[:, 0])
    outputs = []
    for t in range(scores.shape[1]):
        highest = torch.maximum(m, scores[:, t]).detach()
        old, new = torch.exp(m - highest), torch.exp(scores[:, t] - highest)
        u, w, m = u * old + new, w * old[..., None] + new[..., None] * v[:, t], highest
        outputs.append(w / u[..., None])
    return torch.stack(outputs, 1), (m, u, w)


def forward(config: dict, own: dict, x: torch.Tensor):
    B, T, D = x.shape
    H = config["head_count"]
    q = own["mixer.q_proj.weight"] @ own["mixer.query_token"]
    k = (x @ own["mixer.k_proj.weight"].T).view(B, T, H, D // H)
    v = (x @ own["mixer.v_proj.weight"].T).view(B, T, H, D // H)
    o, (m, u, w) = recurrence((k * q.view(H, D // H)).sum(-1) / math.sqrt(D // H), v)
    carry = {"m": m[None], "u": u[None], "w": w.reshape(1, B, D)}
    return o.reshape(B, T, D) @ own["mixer.o_proj.weight"].T, carry


def check() -> None:
    """Against causal softmax attention whose queries are all equal."""
    torch.manual_seed(0)
    scores, v = 3 * torch.randn(2, 9, 3).double(), torch.randn(2, 9, 3, 4).double()
    every = scores[:, None].expand(2, 9, 9, 3).masked_fill(torch.ones(9, 9).triu(1).bool()[None, :, :, None], -math.inf)
    torch.testing.assert_close(recurrence(scores, v)[0], torch.einsum("btsh,bshd->bthd", every.softmax(2), v))
