from _state_space import shared_forms

MIXER = "{ type: s5 }"
# gelu's tanh and a sigmoid, forward and backward.
FUNCTIONS = 512 * 3
FORMS = shared_forms(128, has_full_gate=False)
