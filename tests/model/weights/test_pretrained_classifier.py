import numpy as np
import pytest

from model.checkpoints import errors
from model.weights import pretrained_classifier, weight_file

SYNSETS = (
    "n01440764 tench, Tinca tinca",
    "n01443537 goldfish, Carassius auratus",
    "n02012849 crane",
    "n03126707 crane",
    "n03933933 Pier",
)


@pytest.fixture
def file(tiny, tmp_path):
    """All weights of a tiny network of five classes."""
    random = np.random.default_rng(0)
    shapes = tiny.variable_shapes(tiny.input_spec, num_classes=5)
    arrays = {
        f"{layer}/{name}": random.normal(0, 0.3, shape).astype(np.float32)
        for layer, variables in shapes.items()
        for name, shape in variables.items()
    }
    path = tmp_path / "w.safetensors"
    weight_file.write(path, arrays, weight_file.describe("tiny", tiny.input_spec))
    return path


def labels_file(tmp_path, names):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return str(path)


def test_final_layer_is_the_files_own(tiny, file):
    found = pretrained_classifier.load(str(file))
    assert found.model.output.shape == (None, 5)
    assert found.spec == tiny.input_spec
    assert found.class_names == tuple(f"class {n}" for n in range(5))
    base = tiny.build(tiny.input_spec, last="fc4")
    for layer in base.layers:
        layer.set_weights(found.model.get_layer(layer.name).get_weights())
    image = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3))
    fc5 = found.model.get_layer("fc5")
    expected = base(image).numpy() @ fc5.kernel.numpy() + fc5.bias.numpy()
    np.testing.assert_allclose(found.model(image), expected, rtol=1e-5, atol=1e-6)


def test_class_names(file, tmp_path):
    labels = labels_file(tmp_path, [*SYNSETS, ""])
    assert pretrained_classifier.load(str(file), labels=labels).class_names == SYNSETS


def test_another_number_of_names(file, tmp_path):
    labels = labels_file(tmp_path, SYNSETS[:4])
    with pytest.raises(errors.MismatchedCheckpoint, match=r"4 class names.* 5 classes"):
        pretrained_classifier.load(str(file), labels=labels)


def test_nothing_starts_at_random(tiny, tmp_path):
    shapes = tiny.variable_shapes(tiny.input_spec)
    arrays = {
        f"{layer}/{name}": np.zeros(shape, np.float32)
        for layer, variables in shapes.items()
        for name, shape in variables.items()
        if layer != "fc5"
    }
    weight_file.write(
        tmp_path / "w.npy", arrays, weight_file.describe("tiny", tiny.input_spec)
    )
    with pytest.raises(errors.MismatchedCheckpoint, match="fc5 of tiny cannot be"):
        pretrained_classifier.load(str(tmp_path / "w.npy"))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("n01440764", 0),
        ("tench", 0),
        ("Tinca_tinca", 0),
        ("tench, tinca tinca", 0),
        ("GOLDFISH", 1),
        ("carassius-auratus", 1),
        ("n02012849", 2),
        ("n02012849 crane", 2),
        ("n03126707 crane", 3),
        ("pier", 4),
    ],
)
def test_names_of_a_class(name, label):
    assert pretrained_classifier.label_of_each([name], SYNSETS).tolist() == [label]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crane", "class crane of the data is 2 classes of the network"),
        ("n9", r"n9 of the data is no class .*tench, Tinca tinca, .*--labels"),
        ("", "is no class"),
    ],
)
def test_names_of_no_class(name, message):
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        pretrained_classifier.label_of_each(["tench", name], SYNSETS)


def test_order_of_the_data_does_not_matter():
    names = ("dog", "cat", "ape")
    assert pretrained_classifier.label_of_each(
        ("ape", "cat", "dog"), names
    ).tolist() == [2, 1, 0]
