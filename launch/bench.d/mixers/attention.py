"""Causal attention, 8 heads of 64, without positions."""

from torch import nn
from torch.nn import functional as F

MIXER = "{ type: attention, head_count: 8 }"
# The softmax over 512 keys on average, forward and again backward.
FUNCTIONS = 2 * 8 * 512
LINEAR = False


class Attention(nn.Module):
    def __init__(self, width, heads=8):
        super().__init__()
        self.heads = heads
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))


FORMS = {"scaled_dot_product_attention": Attention}
