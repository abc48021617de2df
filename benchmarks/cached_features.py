"""Measure what the feature cache saves.

    python benchmarks/cached_features.py [FOLDER] [--rounds=3] [--photos=160]

First, the time of an epoch on 3,000 drawn photos once their features are cached: from
metrics.jsonl of train.py --ckpt=alexnet --optimizer=adam. Then, the last stage of
recipes/cats_and_dogs.toml (VGG16 at 150 pixels, trained from block5_conv1 on) on a
sample of FOLDER: with the input of block 5 from the cache, and without a cache.
"""

import itertools
import statistics
import tempfile
from pathlib import Path

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import time
from collections.abc import Callable
from typing import Any

from training_step import build_parts, make_learning_setup

from model.loop import device, train_step
from model.loop.inputs import feature_cache, training_data
from model.training import settings, stages, starting_point, trunk_and_tail
from model.weights import weight_settings
from pipeline.records import manifest

NUM_DRAWN_PHOTOS = 3000
NUM_CLASSES = 5
NO_CACHE = "no cache"


def measure_head_epochs(scratch: Path) -> list[float]:
    """Return the seconds of each epoch of train.py after the first, with validation."""
    # A tenth of the photos is used for validation, another tenth for testing.
    per_class = NUM_DRAWN_PHOTOS * 10 // 8 // NUM_CLASSES
    photos, records, run = (
        scratch / "drawn",
        f"{scratch}/drawn-records",
        scratch / "run",
    )
    draw = ("paper-flowers", str(photos), f"--images_per_class={per_class}")
    measure.run_python("-m", "pipeline.download", *draw)
    measure.convert(photos, records)
    flags = ("--ckpt=alexnet", "--optimizer=adam", f"--run_dir={run}")
    measure.run_python("train.py", f"--data={records}", *flags)
    return [line["seconds"] for line in measure.read_epochs(run)[1:]]


class Stage:
    """VGG16 from block5_conv1 on with a new head, trained with and without the cache.

    Attributes:
        cut: Name of the layer whose output is cached.
        features_s: Time to compute the features of all photos, in seconds.
        candidates: {name: function that trains an epoch and returns photos per second}.
    """

    def __init__(self, records: Path, cache_dir: Path) -> None:
        """Build both candidates and compute the features."""
        dataset = manifest.read(records)
        config = settings.Config(
            ckpt="vgg16_conv",
            train_from="block5_conv1",
            pooling="none",
            hidden=256,
            batch_size=20,
            overrides=weight_settings.Overrides(
                image_size=150, short_side=150, resize="squash"
            ),
        )
        start = starting_point.choose(config, dataset)
        plan = stages.plan_stage(start, config, len(dataset.class_names))
        setup = device.set_up("auto", cache_dir)
        trunk, tail = build_parts(
            plan, start, setup.frozen_policy, setup.trained_policy
        )
        began = time.perf_counter()
        identity = feature_cache.identity_of(
            trunk, plan.cut, plan.spec, setup.precision
        )
        features = training_data.compute_features(
            dataset, trunk, plan.spec, 1, cache_dir=cache_dir, identity=identity
        )
        self.features_s = time.perf_counter() - began
        self.cut = plan.cut
        batch_size = config.batch_size
        cached = training_data.CachedFeatures(
            dataset, features, num_views=1, batch_size=batch_size, seed=0
        )
        photos = training_data.Photos(
            dataset, plan.spec, seed=plan.seed, batch_size=batch_size
        )
        self.candidates = {
            f"{plan.cut} from the cache": _epochs(tail, cached),
            NO_CACHE: _epochs(trunk_and_tail.join(trunk, tail), photos),
        }


def _epochs(model: Any, data: Any) -> Callable[[], float]:
    """Return a function that trains on every photo once."""
    step = train_step.TrainStep(model, make_learning_setup(model))
    epoch_numbers = itertools.count()

    def train_epoch() -> int:
        num_photos = 0
        for inputs, labels in data.training(next(epoch_numbers)):
            float(step(inputs, labels).loss)
            num_photos += len(labels)
        return num_photos

    return measure.per_second(train_epoch)


def main() -> None:
    """Print both tables."""
    parser = measure.argument_parser(__doc__, rounds=3)
    parser.add_argument(
        "--photos", type=int, default=160, help="size of the sample (160)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        seconds = measure_head_epochs(Path(scratch))
        figures = (statistics.median(seconds), min(seconds), max(seconds))
        measure.print_table(
            f"A new final layer on cached features, {NUM_DRAWN_PHOTOS:,} photos",
            [
                ["", "median", "lowest", "highest"],
                ["seconds per epoch", *(f"{figure:.2f}" for figure in figures)],
            ],
        )
        records = measure.convert_sample(options.folder, Path(scratch), options.photos)
        stage = Stage(Path(records), Path(scratch) / "cache")
        rates = measure.run_rounds(stage.candidates, options.rounds)
    rows = measure.rate_rows(rates, NO_CACHE)
    measure.print_table("VGG16 from block5_conv1 on", rows)
    print(f"computing {stage.cut} of all photos took {stage.features_s:.1f} s")


if __name__ == "__main__":
    main()
