"""Train a classifier on records, starting from pretrained weights.

    python train.py --ckpt=alexnet
    python train.py --recipe=flowers

Writes a run folder with the trained network. By default the pretrained layers stay
frozen and only a new final layer trains; --train_from trains deeper layers too.
"""

import pipeline.start  # noqa: F401 # isort: skip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.training import recipe, settings
from pipeline.system import command_line, config_flags
from pipeline.system.errors import UsageError


def main(typed: dict[str, Any]) -> None:
    """Train, or do what --resume, --plan or --find_rate ask for."""
    action = config_flags.build(settings.Action, typed)
    run_dir = settings.run_to_resume(typed)
    rank, size = _rank_and_size()
    if size > 1:
        command_line.name_process(f"process {rank + 1} of {size}", speaks=rank == 0)
    configs = recipe.combinations(typed)
    # Only now, so that wrong flags are refused at once.
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.training import learning_rate_finder, plan_estimate

    if run_dir:
        report(resume(run_dir))
    elif action.plan:
        command_line.say(plan_estimate.plan(*configs))
    elif action.find_rate:
        learning_rate_finder.find_rate(configs[0])
    else:
        report(train(configs))


def resume(run_dir: Path) -> Path:
    """Continue a stopped training of one run or several; return its folder."""
    from model.runs import run_folder, run_list
    from model.training import train_run
    from model.training.repeats import repeated_runs

    run_dir = run_list.find(run_dir)
    is_repeated = (run_dir / run_folder.REPEATS).exists()
    return (repeated_runs.resume if is_repeated else train_run.resume)(run_dir)


def train(configs: Sequence[settings.Config]) -> Path:
    """Train one network, or the best of several; return the folder of its runs."""
    from model.training import train_run
    from model.training.repeats import repeated_runs

    config = configs[0]
    is_repeated = config.seeds > 1 or config.folds > 0
    if (len(configs) > 1 or is_repeated) and _rank_and_size()[1] > 1:
        raise UsageError(
            "--seeds, --folds and several networks: several processes (TF_CONFIG) can "
            "only train one run. Start a training for each seed, fold or network."
        )
    if len(configs) > 1:
        return repeated_runs.choose_network(*configs)
    return repeated_runs.repeat(config) if is_repeated else train_run.train(config)


def _rank_and_size() -> tuple[int, int]:
    if not (tf_config := os.environ.get("TF_CONFIG")):
        return 0, 1
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.loop import distributed

    return distributed.rank_and_size(tf_config)


def report(directory: Path) -> None:
    """Print the folder of a run and its best epoch, in the first process only."""
    from model.runs import finished_run, run_folder
    from model.training import train_run

    if (directory / run_folder.REPEATS).exists():
        command_line.say(f"runs: {run_folder.shown(directory)}")
    elif _rank_and_size()[0] == 0:
        for folder in (directory, directory / train_run.SCRATCH):
            if run_folder.is_run(folder):
                name = f"{folder.name}: " * (folder != directory)
                command_line.say(name + finished_run.read(str(folder)).best_epoch())
        command_line.say(f"run: {directory}")


if __name__ == "__main__":
    command_line.run(main, settings.Action, settings.Config)
