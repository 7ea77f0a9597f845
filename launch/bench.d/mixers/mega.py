import torch
from torch import nn

from _mega import Unit

MIXER = "{ type: mega, chunk_size: 128 }"
# silu and its slope of v, r (1024), z (128), the average and h (512), σ of u; the softmax of 64 keys on average, twice.
FUNCTIONS = 2 * (2 * 1024 + 128 + 3 * 512) + 2 * 64


class Average(nn.Module):
    """The damped moving average as a convolution by FFT over the whole sequence."""

    def __init__(self, width, states=16):
        super().__init__()
        self.delta, self.alpha, self.beta, self.gamma = (nn.Parameter(torch.randn(width, states) / 5) for _ in range(4))
        self.omega = nn.Parameter(torch.randn(width))

    def forward(self, x):
        length = x.shape[1]
        p = torch.sigmoid(self.delta)
        logs = torch.log1p(-p * torch.sigmoid(self.alpha))
        powers = torch.exp(logs[..., None] * torch.arange(length))
        kernel = torch.einsum("dn,dnt->dt", p * self.beta * self.gamma / 4, powers)
        spectrum = torch.fft.rfft(kernel, 2 * length) * torch.fft.rfft(x.mT, 2 * length)
        return torch.fft.irfft(spectrum, 2 * length)[..., :length].mT + self.omega * x


FORMS = {"FFT": lambda width: Unit(width, Average(width))}
