from torch import nn

from _torch import First

MIXER = "{ type: gru }"
# Three gates; their derivatives need none.
FUNCTIONS = 512 * 3
# As rhn, 3 MB of recurrent weights.
STREAM = (3 * 512 * 512 * 4, 2 / 4, 2 * 2 * 3 * 512 * 512)

FORMS = {"nn.GRU": lambda width: First(nn.GRU(width, width, batch_first=True))}
