"""Networks, checkpoints, fine-tuning and judging."""

import pipeline  # noqa: F401 # for what it does about Ctrl-C
