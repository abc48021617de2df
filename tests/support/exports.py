"""Exports of small runs, and images to classify with them."""

import types

import cv2
import numpy as np
import pytest

from model.evaluation import strangers
from model.export import export_settings, exportable, exporting
from model.runs import run_folder
from tests.support import drawn_photos


def export(run, form, out, **settings):
    for name in exporting.PACKAGES.get(form, ()):
        pytest.importorskip(name)
    config = export_settings.Config(
        run_dir=str(run.directory), format=form, out=str(out), **settings
    )
    return exporting.export_classifier(config)


def add_stranger_scores(run):
    """Write strangers.npz of a run, as a training does."""
    records, size_px = run.read_records(), run.spec.size_px

    def photos(split):
        rows = records.included(split)
        views = np.zeros((len(rows), size_px, size_px, 3), np.float32)
        exportable.fill_views(records, rows, run.spec, views)
        yield views, np.array([records.labels[row.class_name] for row in rows])

    source = types.SimpleNamespace(
        central_training=lambda _: photos("train"),
        validation=lambda: photos("validation"),
    )
    num_classes, num_training = len(run.class_names), len(records.included("train"))
    folder = run_folder.RunFolder(directory=run.directory)
    strangers.write(folder, run.load_model(), source, num_classes, num_training)


def scene(number=1, height=60, width=90):
    return drawn_photos.draw_scene(number, height, width)


def encode(pixels, extension=".png"):
    return cv2.imencode(extension, pixels)[1].tobytes()
