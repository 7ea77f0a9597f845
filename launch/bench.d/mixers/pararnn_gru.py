from _diagonal import GRU

MIXER = "{ type: pararnn_gru }"
# Two sigmoids and a tanh.
FUNCTIONS = 512 * 3
FORMS = {"loop over time": GRU}
