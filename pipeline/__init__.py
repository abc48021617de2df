"""Photos -> records -> batches."""

import os
import signal
import sys

# While a command is still importing there is nothing to save: Ctrl-C ends it at once,
# without a traceback. pipeline.system.command_line takes over as soon as it runs. What
# stands in argv while `python -m` looks for the module is "-m".
if os.path.basename(sys.argv[0]) in ("-m", "train.py", "evaluate.py"):  # noqa: PTH119
    signal.signal(signal.SIGINT, signal.SIG_DFL)
