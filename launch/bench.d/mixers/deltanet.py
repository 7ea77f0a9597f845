from functools import partial

from _delta import DeltaMemory

MIXER = "{ type: deltanet, head_count: 8 }"
# silu and its slope of q, k, v; a head's strength.
FUNCTIONS = 512 * 6 + 8

FORMS = {"chunks": partial(DeltaMemory, decays=False, gated=False)}
