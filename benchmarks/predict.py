"""How fast a folder of photos is answered, against the bare network.

    python benchmarks/predict.py FOLDER [--run_dir=runs/latest] [--rounds=3]

Ours: model.predict's own function, from file names to answers, the start of its
processes included. The limit: the network on tensors that are ready, with the same
batches, on the same cores, in the same process. The peer: Keras' predict, fed by
image_dataset_from_directory.
"""

import argparse
import sys
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import keras
import numpy as np

from model.loop import training_loop
from model.predict import classifier, photo_batches, predict_settings, predicting


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run_dir", default="runs/latest")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    paths = tuple(map(str, measure.photo_paths(options.folder)))
    config = predict_settings.Config(photos=paths, run_dir=options.run_dir)
    chosen = classifier.load_run(options.run_dir)
    step, size = training_loop.make_predict_step(chosen.model), config.batch_size
    batches = photo_batches.read(paths, chosen.spec, batch_size=size)
    ready = next(batches).images.astype(np.float32)
    batches.close()

    def network_alone() -> int:
        for start in range(0, len(paths), size):
            np.asarray(step(ready[: len(paths) - start]))
        return len(paths)

    def reading_alone() -> int:
        batches = photo_batches.read(paths, chosen.spec, batch_size=size)
        return sum(len(batch.images) for batch in batches)

    def ours() -> int:
        return sum(1 for one in predicting.predict(config, chosen) if one.classes)

    loader = keras.utils.image_dataset_from_directory(
        str(options.folder),
        image_size=(chosen.spec.size_px, chosen.spec.size_px),
        batch_size=size,
        shuffle=False,
        verbose=False,
    )

    def peer() -> int:
        return len(chosen.model.predict(loader.map(lambda x, _: x), verbose=0))

    limit = "limit: network on ready tensors"
    rates = measure.rounds(
        {
            limit: measure.per_second(network_alone),
            "reading alone": measure.per_second(reading_alone),
            "graft: model.predict": measure.per_second(ours),
            "peer: Keras' predict": measure.per_second(peer),
        },
        options.rounds,
    )
    title = f"Answers for {len(paths):,} photos, {chosen.name}"
    measure.table(title, measure.rate_rows(rates, limit))


if __name__ == "__main__":
    main()
