from functools import partial

from _delta import DeltaMemory

MIXER = "{ type: deltaproduct, num_householder: 2, head_count: 8, value_head_size: 64 }"
# silu and its slope of q, two keys, two values and the gate; a head's decay and strengths.
FUNCTIONS = 512 * 12 + 8 * 7

FORMS = {"chunks": partial(DeltaMemory, steps=2, negative=True)}
