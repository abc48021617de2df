"""Name commands in messages as the user calls them: python train.py, or graft train."""

import re

VERSION = "0.1.0"

# Whether the user calls commands as graft COMMAND. In an installation, where all
# modules are in the package graft, that is always so.
is_graft = __name__.startswith("graft.")

# Neither parts of paths nor calls, such as model.predict(image) in a program.
_IN_CHECKOUT = re.compile(
    r"(?:\bpython -m |\bpython |(?<![\w/\\.-]))"
    r"(?:(?:pipeline|model)\.(convert|check|split|download|predict|serve|export|inspect)"
    r"(?![\w(/-]|\.\w)|(train|evaluate)\.py\b(?!:))"
)


def as_called(text: str) -> str:
    """Return a text that names commands as the user calls them."""
    if not is_graft:
        return text
    return _IN_CHECKOUT.sub(lambda match: f"graft {match[1] or match[2]}", text)
