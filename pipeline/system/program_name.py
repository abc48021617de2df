"""Name commands in messages as they are called: python train.py, or graft train."""

import re

VERSION = "0.1.0"

# Whether commands are called by the name graft: always where Graft is installed, which
# puts all modules into the package graft.
is_graft = __name__.startswith("graft.")

# Neither parts of paths nor calls, such as model.predict(image) in a program.
_IN_CHECKOUT = re.compile(
    r"(?:\bpython -m |\bpython |(?<![\w/\\.-]))"
    r"(?:(?:pipeline|model)\.(convert|check|split|download|predict|serve|export|inspect)"
    r"(?![\w(/-]|\.\w)|(train|evaluate)\.py\b(?!:))"
)


def as_called(text: str) -> str:
    """Return a text in which commands have the names by which they are called."""
    if not is_graft:
        return text
    return _IN_CHECKOUT.sub(lambda match: f"graft {match[1] or match[2]}", text)
