"""How fast a whole network trains, against its bare step and against Keras' fit.

    python benchmarks/training_step.py [FOLDER] [--rounds=3] [--batches=6]
        [--precision=auto]

Ours: the training loop on photos from records, decoded and cut as it goes, AlexNet from
conv1 on with a new head. The limit: the bare step (forward, gradient, Adam) on
a batch that is ready, at the same precision. The peer: keras.Model.fit in float32 of
the same model, on the records read by a plain tf.data pipeline, in a process that
imports TensorFlow as it comes (keras_fit.py).
"""

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from model.loop import device, dropout, optimization, parameter_update, train_step
from model.loop.inputs import training_data
from model.training import settings, stages, starting_point, trunk_and_tail
from model.weights import model_variables
from pipeline.convert import conversion

BATCH_SIZE = 64


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--precision", default="auto", choices=device.PRECISIONS)
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    options = parse()
    images = options.batches * BATCH_SIZE
    with tempfile.TemporaryDirectory() as scratch:
        source = conversion.Config(source=str(options.folder), out=f"{scratch}/records")
        found = conversion.convert(source).manifest
        config = settings.Config(
            ckpt="alexnet_conv", train_from="conv1", batch_size=BATCH_SIZE
        )
        start = starting_point.choose(config, found.class_names)
        plan = stages.plan_stage(start, config, len(found.class_names))

        setup = device.set_up(options.precision, Path(scratch) / "cache")
        precision = setup.precision

        def parts(policy: str) -> tuple[Any, Any]:
            trunk = trunk_and_tail.build_trunk(plan, policy)
            tail = trunk_and_tail.build_tail(plan, trunk, policy)
            for part in (trunk, tail):
                model_variables.assign(part, start.restored.values)
            return trunk, tail

        fresh = training_data.Photos(
            found, plan.spec, seed=plan.seed, batch_size=BATCH_SIZE
        )
        batches = itertools.chain.from_iterable(map(fresh.training, itertools.count()))
        model = trunk_and_tail.join(*parts(setup.trained_policy))
        step = train_step.TrainStep(model, learning_of(model))

        def ours() -> float:
            began = time.perf_counter()
            for inputs, labels in itertools.islice(batches, options.batches):
                float(step(inputs, labels).loss)
            return images / (time.perf_counter() - began)

        bare = bare_step(trunk_and_tail.join(*parts(setup.trained_policy)))
        ready = next(b for b in batches if len(b[1]) == BATCH_SIZE)

        def limit() -> float:
            began = time.perf_counter()
            for number in range(options.batches):
                bare(*ready, tf.constant(number)).numpy()
            return images / (time.perf_counter() - began)

        values = [trunk_and_tail.values(part) for part in parts("float32")]
        plain = trunk_and_tail.assemble(plan, values[0] | values[1])
        name = f"limit: bare step on a ready batch, {precision}"
        with keras_fit(plain, found.directory, options.batches) as peer:
            figures = measure.rounds(
                {
                    f"graft: photos to trained weights, {precision}": ours,
                    name: limit,
                    "peer: Keras' fit, float32": lambda: images / peer(),
                },
                options.rounds,
            )
    rows = measure.rate_rows(figures, name)
    measure.table("Training AlexNet from conv1 on", rows)
    one, _, other = figures.values()
    print(f"graft / Keras' fit: {measure.ratio(one, other):.2f}")


def learning_of(model: Any) -> train_step.LearningSetup:
    """Adam at a constant rate."""
    settings = optimization.Settings(policy="constant")
    return train_step.LearningSetup(
        update=parameter_update.ParameterUpdate(
            model_variables.trainable(model), settings
        ),
        schedule=settings,
        base_rate=1e-5,
        epochs=1,
        total_steps=1 << 30,
    )


def bare_step(model: Any) -> Callable[..., Any]:
    """Forward, gradient and Adam, and nothing else."""
    optimizer = keras.optimizers.Adam(1e-5)
    variables = model.trainable_variables
    optimizer.build(variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(autograph=False)
    def step(inputs: Any, labels: Any, number: Any) -> Any:
        with tf.GradientTape() as tape, dropout.at(number):
            loss = loss_of(labels, model(inputs, training=True))
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return step


@contextlib.contextmanager
def keras_fit(plain: Any, records: Path, batches: int) -> Iterator[Callable[[], float]]:
    """Seconds of Keras' fit on so many batches of the records, in its own process."""
    file = records.parent / "plain.keras"
    plain.save(file)
    process = subprocess.Popen(
        [
            sys.executable,
            "benchmarks/keras_fit.py",
            *map(str, (file, records, batches, BATCH_SIZE)),
        ],
        cwd=measure.ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run() -> float:
        print(file=process.stdin, flush=True)
        return float(next(iter(process.stdout or ())))

    with process:  # which closes its stdin and waits
        yield run


if __name__ == "__main__":
    main()
