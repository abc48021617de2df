"""Exports of small runs, and images to classify with them."""

import cv2
import pytest

from model.export import export_settings, exporting
from tests.support import drawn_photos


def export(run, form, out, **settings):
    for name in exporting.PACKAGES.get(form, ()):
        pytest.importorskip(name)
    config = export_settings.Config(
        run_dir=str(run.directory), format=form, out=str(out), **settings
    )
    return exporting.export_classifier(config)


def scene(number=1, height=60, width=90):
    return drawn_photos.draw_scene(number, height, width)


def encode(pixels, extension=".png"):
    return cv2.imencode(extension, pixels)[1].tobytes()
