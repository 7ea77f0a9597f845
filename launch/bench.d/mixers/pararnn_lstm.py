from _diagonal import LSTM

MIXER = "{ type: pararnn_lstm }"
# Two sigmoids, tanh of the candidate, and of the cell both ways.
FUNCTIONS = 512 * 5
FORMS = {"loop over time": LSTM}
