"""Recurrent cells of several heads, step by step, for pre-activations [B, T, gates, N, S] and weights R [gates, N, S, S]."""

import torch
import torch.nn.functional as F


def elman(pre, r, candidate_bias):
    def step(states, a, product):
        h = torch.tanh(a[:, 0] + product[:, 0])
        return [h], h

    return run(pre, r, 1, step)


def lstm(pre, r, candidate_bias):
    def step(states, a, product):
        i, f, z, o = (a + product).unbind(1)
        c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(z)
        h = torch.sigmoid(o) * torch.tanh(c)
        return [h, c], h

    return run(pre, r, 2, step)


def gru(pre, r, candidate_bias):
    """Input gates r, z, n; recurrent gates candidate, r, z."""

    def step(states, a, product):
        (in_r, in_z, in_n), (g, r_r, r_z) = a.unbind(1), product.unbind(1)
        z = torch.sigmoid(in_z + r_z)
        h = z * states[0] + (1 - z) * torch.tanh(in_n + torch.sigmoid(in_r + r_r) * (g + candidate_bias))
        return [h], h

    return run(pre, r, 1, step)


def slstm(pre, r, candidate_bias):
    def step(states, a, product):
        _, c, n, m = states
        i, f, z, o = (a + product).unbind(1)
        kept = F.logsigmoid(f) + m
        m = torch.where(n == 0, i, torch.maximum(i, kept))
        into, keep = torch.exp((i - m).clamp(max=0)), torch.exp((kept - m).clamp(max=0))
        c, n = keep * c + into * torch.tanh(z), keep * n + into
        h = torch.sigmoid(o) * c / n
        return [h, c, n, m], h

    return run(pre, r, 4, step)


def run(pre, r, state_count, step):
    states = [torch.zeros_like(pre[:, 0, 0])] * state_count
    outputs = []
    for t in range(pre.shape[1]):
        states, h = step(states, pre[:, t], torch.einsum("gnoi,bni->bgno", r, states[0]))
        outputs.append(h)
    return torch.stack(outputs, 1), states
