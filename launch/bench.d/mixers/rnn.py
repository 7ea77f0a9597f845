from torch import nn

from _torch import First

MIXER = "{ type: rnn }"
# tanh; its derivative needs none.
FUNCTIONS = 512

FORMS = {"nn.RNN": lambda width: First(nn.RNN(width, width, batch_first=True))}
