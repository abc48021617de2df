"""What the feature cache saves: a head's epoch, and a stage in the middle of VGG16.

    python benchmarks/cached_features.py [FOLDER] [--rounds=3] [--photos=160]

First: how long an epoch of 3,000 drawn photos takes once their features are there, from
metrics.jsonl of train.py with default flags. Then: VGG16 at 150 pixels trained from
block5_conv1 on, as the last stage of recipes/cats_and_dogs.toml, on some photos of
FOLDER: what block4 gives taken from the cache, against the same stage without one.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import time
from collections.abc import Callable
from typing import Any

from training_step import learning_of

from model.loop import device, train_step
from model.loop.inputs import cache_key, training_data
from model.training import settings, stages, starting_point, trunk_and_tail
from model.weights import model_variables, preprocessing_overrides
from pipeline.convert import conversion

HEAD_PHOTOS = 3000
_CLASSES = 5


def head_epoch(scratch: Path) -> list[float]:
    """Seconds of the epochs of train.py after the first, validation included."""
    each = HEAD_PHOTOS * 10 // 8 // _CLASSES  # a tenth validates, another tests
    draw = ("paper-flowers", f"{scratch}/drawn", f"--images_per_class={each}")
    measure.command("-m", "pipeline.download", *draw)
    records = f"{scratch}/drawn-records"
    measure.command("-m", "pipeline.convert", f"{scratch}/drawn", f"--out={records}")
    where = scratch / "runs" / "head"
    measure.command("train.py", f"--data={records}", f"--run_dir={where}")
    lines = (where / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines[1:]]


class Stage:
    """The last block of VGG16 and a head, cut off below as the cache does or not."""

    def __init__(self, records: str, cache: Path) -> None:
        """Computes the features.

        Args:
            records: of the photos.
            cache: folder of features.
        """
        found = conversion.manifest.read(Path(records))
        config = settings.Config(
            ckpt="vgg16_conv",
            train_from="block5_conv1",
            pooling="none",
            hidden=256,
            batch_size=20,
            overrides=preprocessing_overrides.Overrides(
                image_size=150, short_side=150, resize="squash"
            ),
        )
        start = starting_point.choose(config, found.class_names)
        plan = stages.plan_stage(start, config, len(found.class_names))
        setup = device.set_up("auto", cache)
        trunk = trunk_and_tail.build_trunk(plan, setup.frozen_policy)
        tail = trunk_and_tail.build_tail(plan, trunk, setup.trained_policy)
        for part in (trunk, tail):
            model_variables.assign(part, start.restored.values)
        began = time.perf_counter()
        identity = cache_key.describe(
            trunk, plan.cut, plan.spec, setup.precision, found
        )
        cached = training_data.compute_features(
            found, trunk, plan.spec, 1, cache_dir=cache, identity=identity
        )
        self.features_s = time.perf_counter() - began
        self.cut = plan.cut
        size = config.batch_size
        of_cache = training_data.CachedFeatures(
            found, cached, num_views=1, batch_size=size, seed=0
        )
        fresh = training_data.Photos(found, plan.spec, seed=plan.seed, batch_size=size)
        self.num_training = len(found.included("train"))
        self.candidates = {
            f"{plan.cut} from the cache": self._epochs(tail, of_cache),
            "without it": self._epochs(trunk_and_tail.join(trunk, tail), fresh),
        }

    def _epochs(self, model: Any, source: Any) -> Callable[[], float]:
        """Trains on every photo once; returns photos per second."""
        step = train_step.TrainStep(model, learning_of(model))
        numbers = itertools.count()

        def run() -> float:
            began = time.perf_counter()
            for inputs, labels in source.training(next(numbers)):
                float(step(inputs, labels).loss)
            return self.num_training / (time.perf_counter() - began)

        return run


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=160, help="of all classes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        seconds = head_epoch(Path(scratch))
        rows = [
            ["", "median", "lowest", "highest"],
            [
                "seconds of an epoch",
                *(f"{figure(seconds):.2f}" for figure in (statistics.median, min, max)),
            ],
        ]
        title = f"A new final layer on cached features, {HEAD_PHOTOS:,} photos"
        measure.table(title, rows)
        few = Path(scratch) / "few"
        measure.some_photos(options.folder, few, options.photos)
        records = f"{scratch}/few-records"
        measure.command("-m", "pipeline.convert", str(few), f"--out={records}")
        stage = Stage(records, Path(scratch) / "cache")
        found = measure.rounds(stage.candidates, options.rounds)
    limit = "without it"
    measure.table("VGG16 from block5_conv1 on", measure.rate_rows(found, limit))
    print(f"computing {stage.cut} of all photos once took {stage.features_s:.1f} s")


if __name__ == "__main__":
    main()
