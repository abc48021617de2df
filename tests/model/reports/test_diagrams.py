import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from model.evaluation import calibration
from model.reports import diagrams


@pytest.fixture(scope="module")
def drawings():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), 50)
    labels = random.integers(0, 3, 50)
    figures = calibration.figures(probabilities, probabilities**0.5, labels)
    results = [
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "validation_loss": 2 / epoch,
            "accuracy": 0.5,
            "validation_accuracy": 0.1 * epoch,
        }
        for epoch in (1, 2, 3)
    ]
    drawer = diagrams.Drawings()
    reliability, histogram = drawer.reliability(figures["calibration"])
    loss, accuracy = drawer.training(results)
    return {
        "reliability": reliability,
        "histogram": histogram,
        "coverage": drawer.coverage(figures["coverage"]),
        "loss": loss,
        "accuracy": accuracy,
        "one epoch": drawer.training(results[:1])[0],
        "one photo": drawer.coverage(
            [{"threshold": 0.5, "coverage": 1.0, "accuracy": 1.0}]
        ),
    }


def test_diagrams_are_well_formed_and_scale(drawings):
    for svg in drawings.values():
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert "viewBox" in root.attrib
        assert "width" not in root.attrib and "height" not in root.attrib


def test_ids_are_unique_in_the_page(drawings):
    names = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in drawings.values()]
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names))
    for svg, own in zip(drawings.values(), names, strict=True):
        used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg))
        assert used <= own


def test_diagrams_use_the_colours_of_the_page(drawings):
    svg = drawings["reliability"]
    assert "var(--series-1)" in svg
    assert "currentColor" in svg
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", svg)
    assert "#000000" not in svg and "#ffffff" not in svg


def test_text_stays_text_and_a_label_describes_the_diagram(drawings):
    assert re.search(r"<text[^>]*>confidence</text>", drawings["reliability"])
    label = ElementTree.fromstring(drawings["accuracy"]).attrib["aria-label"]
    assert "over 3 epochs" in label
    assert "with the best epoch, 3, it was 0.300 on validation photos" in label
    label = ElementTree.fromstring(drawings["one photo"]).attrib["aria-label"]
    assert "of all photos 100.0 % are correct" in label


def test_diagrams_refer_to_nothing_outside(drawings):
    for svg in drawings.values():
        found = re.findall(r'(?:href|src)="(?!#)[^"]*"|url\((?!#)', svg)
        assert found == []
