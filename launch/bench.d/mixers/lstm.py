from torch import nn

from _torch import First

MIXER = "{ type: lstm }"
# Four gates and tanh of the cell, the latter in the backward pass too.
FUNCTIONS = 512 * 6
# As rhn, 4 MB of recurrent weights.
STREAM = (4 * 512 * 512 * 4, 2 / 4, 2 * 2 * 4 * 512 * 512)

FORMS = {"nn.LSTM": lambda width: First(nn.LSTM(width, width, batch_first=True))}
