from torch import nn

import mingru

MIXER = "{ type: bidirectional, mixer: { type: mingru }, merge: sum }"
FUNCTIONS = 2 * mingru.FUNCTIONS


class Both(nn.Module):
    def __init__(self, width, form):
        super().__init__()
        self.ahead, self.behind = form(width), form(width)

    def forward(self, x):
        return self.ahead(x) + self.behind(x.flip(1)).flip(1)


FORMS = {name: lambda width, form=form: Both(width, form) for name, form in mingru.FORMS.items()}
