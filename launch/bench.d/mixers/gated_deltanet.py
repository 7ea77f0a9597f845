from _delta import DeltaMemory

MIXER = "{ type: gated_deltanet, head_count: 8, value_head_size: 64 }"
# silu and its slope of q, k, v and the gate; a head's decay and strength.
FUNCTIONS = 512 * 8 + 8 * 6

FORMS = {"chunks": DeltaMemory}
