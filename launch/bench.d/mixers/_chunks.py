"""Matrix memories in chunks, in plain PyTorch: all chunks of a sequence at once, states by one loop over chunks.

Legend: B sequences, T tokens in C chunks of L, H heads, K key width, V value width.
"""

import torch


def chunked(x, length):
    """[B, T, H, ·] as [B, H, C, L, ·]."""
    batch, time, heads = x.shape[:3]
    return x.reshape(batch, time // length, length, heads, *x.shape[3:]).movedim(3, 1)


def unchunked(x):
    return x.movedim(1, 3).flatten(1, 2)


def states_before(updates, keeps):
    """The state before every chunk, from each chunk's own update and the decay over it."""
    state, before = torch.zeros_like(updates[:, :, 0]), []
    for update, keep in zip(updates.unbind(2), keeps.unbind(2)):
        before.append(state)
        state = keep * state + update
    return torch.stack(before, 2)


def scalar_memory(q, k, v, log_decay, scale=1.0, length=64):
    """S = e^g S + k v^T, o = scale q S, of q, k [B, T, H or 1, K], v [B, T, H, V], g [B, T, H]."""
    q, k, v, g = (chunked(x, length) for x in (q, k, v, log_decay))
    total = g.cumsum(-1)
    mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~mask, float("-inf")).exp()
    scores = (q * scale) @ k.mT * decay
    updates = k.mT @ (v * (total[..., -1:] - total).exp()[..., None])
    before = states_before(updates, total[..., -1].exp()[..., None, None])
    return unchunked(scores @ v + (q * scale) @ before * total.exp()[..., None])


def channel_memory(q, k, v, log_decay, scale=1.0, length=64, band=16):
    """The same with g [B, T, H, K]: bands of 16 rows keep every factor in range."""
    q, k, v, g = (chunked(x, length) for x in (q, k, v, log_decay))
    total = g.cumsum(-2)
    bands = length // band
    rows = []
    mask = torch.ones(band, band, dtype=torch.bool, device=q.device).tril()
    for i in range(bands):
        own = slice(i * band, (i + 1) * band)
        pieces = []
        if i:
            start = total[..., i * band - 1 : i * band, :]
            earlier = slice(0, i * band)
            pieces.append((q[..., own, :] * (total[..., own, :] - start).exp())
                          @ (k[..., earlier, :] * (start - total[..., earlier, :]).exp()).mT)
        difference = total[..., own, None, :] - total[..., None, own, :]
        decay = difference.masked_fill(~mask[..., None], float("-inf")).exp()
        pieces.append((q[..., own, None, :] * k[..., None, own, :] * decay).sum(-1))
        pieces.append(q.new_zeros(*q.shape[:-2], band, length - (i + 1) * band))
        rows.append(torch.cat(pieces, -1))
    scores = scale * torch.cat(rows, -2)
    updates = (k * (total[..., -1:, :] - total).exp()).mT @ v
    before = states_before(updates, total[..., -1, :, None].exp())
    return unchunked(scores @ v + (q * scale * total.exp()) @ before)


def plain_memory(q, k, v, scale=1.0, length=64):
    """S = S + k v^T, o = scale q S."""
    q, k, v = (chunked(x, length) for x in (q, k, v))
    updates = k.mT @ v
    before = updates.cumsum(2) - updates
    return unchunked(((q * scale) @ k.mT).tril() @ v + (q * scale) @ before)
