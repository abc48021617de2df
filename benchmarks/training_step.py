"""Measure how fast a whole network trains.

    python benchmarks/training_step.py [FOLDER] [--rounds=3] [--batches=6]
        [--precision=auto]

Compares Graft's training step on photos from records (AlexNet from conv1 on with a new
head; decoding and cropping included) with a limit and a baseline. The limit is the bare
step (forward pass, gradient, Adam) on a batch in memory at the same precision. The
baseline is keras.Model.fit of the same model in float32, on the records read by a plain
tf.data pipeline, in a process without Graft's TensorFlow settings (keras_fit.py).
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

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from model.loop import device, dropout, optimization, train_step
from model.loop.inputs import training_data
from model.training import settings, stages, starting_point, trunk_and_tail
from model.weights import model_variables
from pipeline.records import manifest

BATCH_SIZE = 64
LEARNING_RATE = 1e-5


def main() -> None:
    """Print the table."""
    options = parse_arguments()
    num_images = options.batches * BATCH_SIZE
    with tempfile.TemporaryDirectory() as scratch:
        records = Path(scratch) / "records"
        measure.convert(options.folder, str(records))
        dataset = manifest.read(records)
        if len(dataset.included("train")) < BATCH_SIZE:
            sys.exit(f"{options.folder}: expected {BATCH_SIZE} photos for training")
        config = settings.Config(
            ckpt="alexnet_conv", train_from="conv1", batch_size=BATCH_SIZE
        )
        start = starting_point.choose(config, dataset)
        plan = stages.plan_stage(start, config, len(dataset.class_names))
        setup = device.set_up(options.precision, Path(scratch) / "cache")
        policy = setup.trained_policy

        photos = training_data.Photos(
            dataset, plan.spec, seed=plan.seed, batch_size=BATCH_SIZE
        )
        batches = itertools.chain.from_iterable(map(photos.training, itertools.count()))
        model = trunk_and_tail.join(*build_parts(plan, start, policy, policy))
        step = train_step.TrainStep(model, make_learning_setup(model))

        def train() -> int:
            count = 0
            for inputs, labels in itertools.islice(batches, options.batches):
                float(step(inputs, labels).loss)
                count += len(labels)
            return count

        bare_model = trunk_and_tail.join(*build_parts(plan, start, policy, policy))
        bare_step = make_bare_step(bare_model)
        full_batch = next(batch for batch in batches if len(batch[1]) == BATCH_SIZE)

        def train_bare() -> int:
            for number in range(options.batches):
                bare_step(*full_batch, tf.constant(number)).numpy()
            return num_images

        trunk, tail = build_parts(plan, start, "float32", "float32")
        values = trunk_and_tail.values(trunk) | trunk_and_tail.values(tail)
        keras_model = trunk_and_tail.assemble(plan, values)
        graft = f"graft: photos to trained weights, {setup.precision}"
        limit = f"limit: bare step on a batch in memory, {setup.precision}"
        baseline = "baseline: Keras' fit, float32"
        with keras_fit(keras_model, records, options.batches) as fit_seconds:
            rates = measure.run_rounds(
                {
                    graft: measure.per_second(train),
                    limit: measure.per_second(train_bare),
                    baseline: lambda: num_images / fit_seconds(),
                },
                options.rounds,
            )
    measure.print_table("AlexNet from conv1 on", measure.rate_rows(rates, limit))
    ratio = measure.median_ratio(rates[graft], rates[baseline])
    print(f"graft / Keras' fit: {ratio:.2f}")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = measure.argument_parser(__doc__, rounds=3)
    parser.add_argument(
        "--batches", type=int, default=6, help="batches per candidate and round (6)"
    )
    parser.add_argument("--precision", default="auto", choices=device.PRECISIONS)
    return parser.parse_args()


def build_parts(
    plan: stages.StagePlan,
    start: starting_point.StartingPoint,
    trunk_policy: str,
    tail_policy: str,
) -> tuple[Any, Any]:
    """Return trunk and tail of a stage, with the pretrained weights."""
    trunk = trunk_and_tail.build_trunk(plan, trunk_policy)
    tail = trunk_and_tail.build_tail(plan, trunk, tail_policy)
    for part in (trunk, tail):
        model_variables.assign(part, start.restored.values)
    return trunk, tail


def make_learning_setup(model: Any) -> train_step.LearningSetup:
    """Return Adam with a constant learning rate."""
    constant = optimization.Settings(policy="constant")
    return train_step.LearningSetup(
        update=train_step.ParameterUpdate(model_variables.trainable(model), constant),
        schedule=constant,
        base_rate=LEARNING_RATE,
        epochs=1,
        total_steps=1 << 30,
    )


def make_bare_step(model: Any) -> Callable[..., Any]:
    """Return a training step of forward pass, gradient and Adam only."""
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    variables = model.trainable_variables
    optimizer.build(variables)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(autograph=False)
    def step(inputs: Any, labels: Any, number: Any) -> Any:
        with tf.GradientTape() as tape, dropout.at(number):
            loss = loss_fn(labels, model(inputs, training=True))
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return step


@contextlib.contextmanager
def keras_fit(model: Any, records: Path, batches: int) -> Iterator[Callable[[], float]]:
    """Start keras_fit.py; yield a function that returns the seconds of `batches`."""
    file = records.parent / "plain.keras"
    model.save(file)
    words = map(str, (file, records, batches, BATCH_SIZE))
    process = measure.start_python(
        "benchmarks/keras_fit.py",
        *words,
        env={k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
    )

    def fit_seconds() -> float:
        print(file=process.stdin, flush=True)
        return float(next(iter(process.stdout or ())))

    with process:  # closes its stdin and waits
        yield fit_seconds


if __name__ == "__main__":
    main()
