"""tbd"""


def check() -> None:
    pass
