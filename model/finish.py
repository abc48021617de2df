"""The best weights so far -> the files that make a run folder usable."""

import dataclasses
from typing import Any

import numpy as np

from model import loop, metrics, restore, run, stages, weights, zoo
from pipeline import manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finisher:
    """Writes model.keras, ledger and calibration of a run.

    Attributes:
        record: the run folder.
        found: the data set.
        plan: of the network.
        fit: what was restored; None for a random start.
        weights: where it came from; None likewise.
        frozen: digests of the frozen variables, taken before training.
    """

    record: run.Run
    found: manifest.Manifest
    plan: stages.Plan
    fit: restore.Fit | None
    weights: zoo.Weights | None
    frozen: dict[str, str]

    def write(self, trunk: Any, tail: Any, best: loop.Best) -> None:
        """Writes the files anew; leaves `tail` as it is, for training may go on.

        Args:
            trunk: of stages.build_trunk.
            tail: of stages.build_tail.
            best: at least one epoch of it.
        """
        whole = stages.assemble(self.plan, trunk, best.values)
        self.record.write_ledger(
            restore.ledger(self.fit, whole),
            _about_weights(self.weights, self.fit)
            | {"preprocessing": self.plan.spec.source},
            before=self.frozen,
            after=restore.digests(whole.variables),
        )
        rows = self.found.taken("validation")
        labels = np.array([self.found.labels[row.class_name] for row in rows])
        logits = best.validation_logits
        if logits is None:
            raise RuntimeError("the best epoch has no validation logits")
        temperature = metrics.fit_temperature(logits, labels)
        self.record.write_json(
            "calibration.json",
            {
                "temperature": temperature,
                "fitted_on": "validation",
                "num_examples": len(labels),
                "loss_before": metrics.mean_loss(logits, labels),
                "loss_after": metrics.mean_loss(logits / temperature, labels),
                "epoch": best.epoch,
            },
        )
        about = weights.describe(self.plan.network.name, self.plan.spec)
        self.record.save_model(whole, about)


def photos(found: manifest.Manifest) -> dict[str, list[str]]:
    """SHA-256 of the photos that a run has seen, by split: none may test it."""
    return {
        split: sorted({row.sha256 for row in found.taken(split)})
        for split in ("train", "validation")
    }


def describe(
    found: manifest.Manifest, plan: stages.Plan, weights: zoo.Weights | None
) -> dict[str, Any]:
    """What config.json says of data, network and weights."""
    about = _about_weights(weights, None)
    return {
        "network": plan.network.name,
        "features": plan.features,
        "train_from": plan.train_from,
        "input_spec": dataclasses.asdict(plan.spec),
        "weights": about,
        "data": {
            "path": str(found.directory.resolve()),
            "manifest_digest": found.digest,
            "class_names": list(found.class_names),
            "counts": found.counts(),
        },
        "versions": run.versions(),
    }


def _about_weights(
    weights: zoo.Weights | None, fit: restore.Fit | None
) -> dict[str, Any]:
    if weights is None:
        return {"ckpt": "none"}
    about = {
        "ckpt": weights.name,
        "variant": weights.variant,
        "path": str(weights.path),
        "tensors_sha256": weights.checkpoint.digest(),
    }
    if fit is None:
        return about
    return about | {
        "format": weights.checkpoint.format,
        "metadata": weights.checkpoint.metadata,
        "naming": fit.naming.source,
        "set_aside": list(weights.checkpoint.aside),
    }
