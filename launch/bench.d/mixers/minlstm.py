from torch.nn import functional as F

from _minimal import forms

MIXER = "{ type: minlstm }"
# Three sigmoids: of the candidate and both gates.
FUNCTIONS = 512 * 3


def gates(f, i):
    difference = F.softplus(-f) - F.softplus(-i)
    return -F.softplus(difference), -F.softplus(-difference)


FORMS = forms(3, gates)
