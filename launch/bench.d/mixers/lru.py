from _state_space import shared_forms

MIXER = "{ type: lru }"
# gelu's tanh and a sigmoid, forward and backward.
FUNCTIONS = 512 * 3
FORMS = shared_forms(512, has_full_gate=True)
