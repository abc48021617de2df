import keras
import pytest
from keras import layers

from model.export import culprit, exportable
from tests import small_runs


@pytest.fixture
def source():
    image = keras.Input((8, 8, 3), name="image")
    left = layers.Conv2D(4, 3, padding="same", name="left")(image)
    right = layers.Conv2D(4, 1, name="right")(image)
    both = layers.Add(name="both")([left, right])
    mean = layers.GlobalAveragePooling2D(name="mean")(both)
    return exportable.Exportable(
        model=keras.Model(image, layers.Softmax(name="probabilities")(mean)),
        spec=small_runs.SPEC,
        resize_min=512,
        class_names=("a", "b", "c", "d"),
        about={},
    )


def refusing(*names):
    """A converter that does not take layers of these names; and what it was given."""
    given = []

    def convert(model):
        given.append([layer.name for layer in model.layers][-1])
        if given[-1] in names:
            raise RuntimeError("no such\noperation " + "x" * 500)

    return convert, given


def test_names_the_layer(source):
    convert, given = refusing("both", "mean")
    found = culprit.find("--format=x", ValueError("whole"), source, convert)
    assert str(found).startswith(
        "--format=x: the layer both (Add) cannot be exported so: no such operation xxx"
    )
    assert len(str(found)) < 400
    assert given == ["left", "right", "both"]


def test_no_layer_alone(source):
    convert, given = refusing()
    found = culprit.find("--format=x", ValueError("all of it"), source, convert)
    assert "--format=x: all of it; each layer alone can be exported" in str(found)
    assert given[-1] == "probabilities"
