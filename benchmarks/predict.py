"""Measure how fast a folder of photos is classified.

    python benchmarks/predict.py [FOLDER] [--run_dir=runs/latest] [--rounds=3]

Times model.predict's own function from file names to predictions, including the start
of its reader processes. The limit is the network on a batch in memory, with the same
batch size, cores and process. The baseline is Keras' predict on
image_dataset_from_directory.
"""

import contextlib

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import numpy as np

from model.loop import training_loop
from model.predict import classifier, photo_batches, predict_settings, predicting


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=3)
    parser.add_argument("--run_dir", default="runs/latest", help="run to predict with")
    options = parser.parse_args()
    paths = tuple(map(str, measure.list_photos(options.folder)))
    config = predict_settings.Config(photos=paths, run_dir=options.run_dir)
    run = classifier.load_run(options.run_dir)
    step, batch_size = training_loop.make_predict_step(run.model), config.batch_size
    with contextlib.closing(
        photo_batches.read(paths, run.spec, batch_size=batch_size)
    ) as batches:
        first_batch = next(batches).images.astype(np.float32)

    def network_alone() -> int:
        for start in range(0, len(paths), batch_size):
            np.asarray(step(first_batch[: len(paths) - start]))
        return len(paths)

    def reading_alone() -> int:
        batches = photo_batches.read(paths, run.spec, batch_size=batch_size)
        return sum(len(batch.images) for batch in batches)

    def predict() -> int:
        predictions = predicting.predict(config, run)
        return sum(1 for prediction in predictions if prediction.classes)

    limit = "limit: network on a batch in memory"
    keras_predict = measure.keras_predict(
        run.model, options.folder, run.spec.size_px, batch_size
    )
    rates = measure.run_rounds(
        {
            limit: measure.per_second(network_alone),
            "reading alone": measure.per_second(reading_alone),
            "graft: model.predict": measure.per_second(predict),
            "baseline: Keras' predict": measure.per_second(keras_predict),
        },
        options.rounds,
    )
    title = f"Predictions for {len(paths):,} photos, {run.name}"
    measure.print_table(title, measure.rate_rows(rates, limit))


if __name__ == "__main__":
    main()
