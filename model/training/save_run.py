"""The best weights so far -> the files that make a run folder usable."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.loop import metrics, training_loop
from model.runs import run_folder
from model.training import stages, starting_point
from model.weights import ledger, model_variables, weight_file
from pipeline.records import manifest
from pipeline.sources import source_settings


def write(
    record: run_folder.RunFolder,
    found: manifest.Manifest,
    start: starting_point.Base,
    plan: stages.Plan,
    best: training_loop.Best,
    *,
    frozen: dict[str, str],
) -> None:
    """Writes model.keras, ledger and calibration of a run anew.

    Args:
        record: the run folder.
        found: the data set.
        start: the network that training began with.
        plan: of a stage.
        best: at least one epoch of it.
        frozen: digests of the frozen variables, taken before training.
    """
    whole = stages.assemble(plan, best.values)
    record.write_ledger(
        ledger.complete(start.fit.entries if start.fit else (), whole),
        _about_weights(start) | {"preprocessing": plan.spec.source},
        before=frozen,
        after=model_variables.digests(whole.variables),
    )
    rows = found.included("validation")
    labels = np.array([found.labels[row.class_name] for row in rows])
    logits = best.validation_logits
    if logits is None:
        raise RuntimeError("the best epoch has no validation logits")
    temperature = metrics.fit_temperature(logits, labels)
    record.write_json(
        "calibration.json",
        {
            "temperature": temperature,
            "at_bound": metrics.at_bound(temperature),
            "fitted_on": "validation",
            "num_examples": len(labels),
            "loss_before": metrics.mean_loss(logits, labels),
            "loss_after": metrics.mean_loss(logits / temperature, labels),
            "epoch": best.epoch,
        },
    )
    record.save_model(whole, weight_file.describe(plan.network.name, plan.spec))


def photos(found: manifest.Manifest) -> dict[str, list[str]]:
    """SHA-256 of the photos that a run has seen, by split: none may test it."""
    return {
        split: sorted({row.sha256 for row in found.included(split)})
        for split in ("train", "validation")
    }


def describe(
    found: manifest.Manifest, start: starting_point.Base, plans: Sequence[stages.Plan]
) -> dict[str, Any]:
    """What config.json says of data, network and weights."""
    about = _about_weights(start)
    named = ("ckpt", "variant", "path", "tensors_sha256")
    return {
        "network": start.network.name,
        "features": ",".join(start.features),
        "pooling": start.pooling,
        "stages": [
            {"train_from": p.train_from, "cut": p.cut, "frozen": sorted(p.frozen)}
            for p in plans
        ],
        "input_spec": dataclasses.asdict(start.spec),
        "weights": {name: about[name] for name in named if name in about},
        "data": {
            "path": str(found.directory.resolve()),
            "manifest_digest": found.digest,
            "class_names": list(found.class_names),
            "counts": found.counts(),
            "resize_min": found.info.settings.get(
                "resize_min", source_settings.RESIZE_MIN
            ),
        },
        "versions": run_folder.versions(),
    }


def _about_weights(start: starting_point.Base) -> dict[str, Any]:
    if start.weights is None or start.fit is None:
        return {"ckpt": "none"}
    checkpoint = start.weights.checkpoint
    return {
        "ckpt": start.weights.name,
        "variant": start.weights.variant,
        "path": str(start.weights.path),
        "tensors_sha256": checkpoint.digest(),
        "format": checkpoint.format,
        "metadata": checkpoint.metadata,
        "naming": start.fit.naming.source,
        "set_aside": list(checkpoint.ignored_entries),
    }
