import numpy as np
import pytest

from model.checkpoints import errors
from model.weights import pretrained_classifier
from tests.support import networks

SYNSETS = (
    "n01440764 tench, Tinca tinca",
    "n01443537 goldfish, Carassius auratus",
    "n02012849 crane",
    "n03126707 crane",
    "n03933933 Pier",
)


def write_weights(tiny, path, without=""):
    """Write weights of a tiny network of five classes."""
    random = np.random.default_rng(0)
    shapes = tiny.variable_shapes(tiny.input_spec, num_classes=5)
    arrays = {
        f"{layer}/{name}": random.normal(0, 0.3, shape).astype(np.float32)
        for layer, variables in shapes.items()
        for name, shape in variables.items()
        if layer != without
    }
    return networks.write_tiny(path, arrays)


def refused(message):
    return pytest.raises(errors.MismatchedCheckpoint, match=message)


@pytest.fixture
def file(tiny, tmp_path):
    return write_weights(tiny, tmp_path / "w.safetensors")


def test_the_final_layer_is_that_of_the_file(tiny, file):
    classifier = pretrained_classifier.load(file)
    assert classifier.model.output.shape == (None, 5)
    assert classifier.spec == tiny.input_spec
    assert classifier.class_names == tuple(f"class {n}" for n in range(5))
    base = tiny.build(tiny.input_spec, last="fc4")
    for layer in base.layers:
        layer.set_weights(classifier.model.get_layer(layer.name).get_weights())
    image = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3))
    fc5 = classifier.model.get_layer("fc5")
    expected = base(image).numpy() @ fc5.kernel.numpy() + fc5.bias.numpy()
    np.testing.assert_allclose(classifier.model(image), expected, rtol=1e-5, atol=1e-6)


def test_class_names_may_be_given(file, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(SYNSETS))
    classifier = pretrained_classifier.load(file, labels=f"{tmp_path}/labels.txt")
    assert classifier.class_names == SYNSETS


def test_a_wrong_number_of_class_names_is_refused(file, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(SYNSETS[:4]))
    with refused(r"--labels: expected 5 class names, found 4"):
        pretrained_classifier.load(file, labels=f"{tmp_path}/labels.txt")


def test_a_file_without_the_final_layer_is_refused(tiny, tmp_path):
    file = write_weights(tiny, tmp_path / "w.npy", without="fc5")
    with refused("fc5 of tiny cannot be"):
        pretrained_classifier.load(file)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *(
            ("n01440764", 0),
            ("tench", 0),
            ("Tinca_tinca", 0),
            ("tench, tinca tinca", 0),
        ),
        *(("GOLDFISH", 1), ("carassius-auratus", 1), ("n02012849", 2)),
        *(("n02012849 crane", 2), ("n03126707 crane", 3), ("pier", 4)),
    ],
)
def test_a_class_has_several_names(name, label):
    assert pretrained_classifier.match_class_names([name], SYNSETS).tolist() == [label]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crane", "class crane of the data matches 2 classes of the network"),
        ("n9", r"n9 of the data matches no class .*tench, Tinca tinca, .*--labels"),
        ("", "matches no class"),
    ],
)
def test_unknown_and_ambiguous_names_are_refused(name, message):
    with refused(message):
        pretrained_classifier.match_class_names(["tench", name], SYNSETS)


def test_labels_follow_the_order_of_the_data():
    names = ("dog", "cat", "ape")
    assert pretrained_classifier.match_class_names(
        ("ape", "cat", "dog"), names
    ).tolist() == [2, 1, 0]
