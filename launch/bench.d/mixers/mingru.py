from torch.nn import functional as F

from _minimal import forms

MIXER = "{ type: mingru }"
# Two sigmoids.
FUNCTIONS = 512 * 2
FORMS = forms(2, lambda gate: (F.logsigmoid(-gate), F.logsigmoid(gate)))
