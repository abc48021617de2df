import ml_dtypes
import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.weights import (
    layer_naming,
    ledger,
    model_variables,
    naming_conventions,
    preprocessing_overrides,
    restore,
)
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(size_px=16, short_side_px=18, source="test")
LAYERS = ("conv1", "conv2", "fc3", "fc4", "fc5")
SUFFIXES = {"kernel": "weights", "bias": "biases"}


@pytest.fixture
def tensors(tiny):
    """A complete file for the tiny network."""
    random = np.random.default_rng(4)
    return {
        f"tiny/{layer}/{SUFFIXES[variable]}": random.normal(size=shape).astype("f4")
        for layer, pair in tiny.variable_shapes(SPEC).items()
        for variable, shape in pair.items()
    }


def fit(tensors, where, **how):
    checkpoint = reading.Checkpoint(tensors=tensors, format="test")
    return restore.restore_checkpoint(checkpoint, where, **how)


def build(tiny, last):
    return tiny.build(SPEC, last=last)


def statuses(entries):
    return {entry.variable or entry.tensor: entry.status for entry in entries}


class TestFit:
    def test_complete_file(self, tensors):
        found = fit(tensors, "w.npy")
        assert (found.where, found.network.name) == ("w.npy", "tiny")
        assert tuple(found.shapes) == LAYERS
        assert all(found.is_complete(layer) for layer in LAYERS)
        assert set(statuses(found.entries).values()) == {"restored"}
        assert len(found.entries) == 10
        assert found.deepest_feature() == "fc4"
        assert found.missing_layers("fc5") == []
        found.require("fc5")

    def test_entry_tells_both_sides(self, tensors):
        found = fit(tensors, "")
        assert found.entries[0] == ledger.Entry(
            status="restored",
            variable="conv1/kernel",
            shape=(3, 3, 3, 4),
            tensor="tiny/conv1/weights",
            file_shape=(3, 3, 3, 4),
            file_dtype="float32",
        )

    def test_other_tensors_are_unused(self, tensors):
        tensors |= {"step": np.array(7), "ema/fc3": np.zeros((2, 3), np.float16)}
        found = fit(tensors, "")
        unused = [entry for entry in found.entries if entry.status == "unused"]
        assert unused == [
            ledger.Entry(
                status="unused",
                tensor="ema/fc3",
                file_shape=(2, 3),
                file_dtype="float16",
            ),
            ledger.Entry(status="unused", tensor="step", file_dtype="int64"),
        ]

    def test_file_that_ends_early(self, tensors):
        short = {n: t for n, t in tensors.items() if "fc4" not in n and "fc5" not in n}
        found = fit(short, "w.npy")
        assert found.deepest_feature() == "fc3"
        assert found.missing_layers("fc5") == ["fc4", "fc5"]
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"w\.npy: fc4 of tiny cannot be restored.*contain.*--features=fc3",
        ):
            found.require("fc4")

    @pytest.mark.parametrize("lost", ["tiny/fc3/weights", "tiny/fc3/biases"])
    def test_half_a_layer_is_no_layer(self, tensors, lost):
        del tensors[lost]
        found = fit(tensors, "")
        assert not found.is_complete("fc3")
        assert found.deepest_feature() == "pool2"
        with pytest.raises(errors.MismatchedCheckpoint, match="fc3 of tiny"):
            found.require("fc4")
        found.require("flatten")

    def test_wrong_shape(self, tensors):
        tensors["tiny/fc4/weights"] = np.zeros((8, 9), np.float32)
        found = fit(tensors, "w.npy")
        (entry,) = [e for e in found.entries if e.status == "mismatched"]
        assert (entry.shape, entry.file_shape) == ((8, 7), (8, 9))
        assert found.deepest_feature() == "fc3"
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"fc4 of tiny .* tiny/fc4/weights is float32 \[8, 9\], expected "
            r"float \[8, 7\].*--features=fc3",
        ):
            found.require("fc4")

    def test_transposed_square_kernel_cannot_be_told_but_others_can(self, tensors):
        kernel = tensors["tiny/fc4/weights"]
        found = fit(tensors | {"tiny/fc4/weights": kernel.T}, "")
        assert statuses(found.entries)["fc4/kernel"] == "mismatched"

    def test_nothing_can_carry_a_head(self, tensors):
        tensors["tiny/conv1/weights"] = np.zeros((5, 5, 3, 4), np.float32)
        found = fit(tensors, "w.npy")
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"w\.npy: conv1 of tiny .* \[5, 5, 3, 4\], expected float "
            r"\[3, 3, 3, 4\].*may belong to another network",
        ):
            found.deepest_feature()

    def test_a_head_may_sit_where_the_file_ends(self, tensors):
        """As of a run whose head sat on a layer further down than any by default."""
        kept = {name: a for name, a in tensors.items() if "/conv1/" in name}
        with pytest.raises(errors.MismatchedCheckpoint, match="--features=pool1"):
            fit(kept, "w.npy", arch="tiny").deepest_feature()

    def test_another_networks_file_in_the_files_own_layout(self):
        """SqueezeNet of torchvision starts with features.0 as AlexNet does."""
        squeezenet = {
            "features.0.weight": np.zeros((96, 3, 7, 7), np.float32),
            "features.0.bias": np.zeros(96, np.float32),
        }
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"does not fit .* features\.0\.weight is \[96, 3, 7, 7\]",
        ):
            fit(squeezenet, "squeezenet.pth")

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
    def test_floats_of_any_width_become_float32(self, tensors, dtype):
        whole = {n: np.rint(t).astype(dtype) for n, t in tensors.items()}
        found = fit(whole, "")
        assert set(statuses(found.entries).values()) == {"restored"}
        kernel = found.values["fc3"]["kernel"]
        assert kernel.dtype == np.float32
        assert (kernel == np.rint(tensors["tiny/fc3/weights"])).all()

    @pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_, np.complex64])
    def test_other_numbers_are_no_weights(self, tensors, dtype):
        tensors["tiny/fc3/weights"] = np.ones((24, 8), dtype)
        found = fit(tensors, "")
        assert statuses(found.entries)["fc3/kernel"] == "mismatched"
        kind = np.dtype(dtype).name
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=rf"is {kind} \[24, 8\], expected float \[24, 8\]",
        ):
            found.require("fc3")

    @pytest.mark.parametrize(
        ("dtype", "value"),
        [("f4", np.nan), ("f4", np.inf), ("f2", -np.inf), ("f8", 1e39)],
    )
    def test_weights_that_are_no_numbers(self, tensors, dtype, value):
        """Told here, and not as a loss that is nan."""
        tensors["tiny/fc3/biases"] = np.array([0.0] * 7 + [value], dtype)
        with pytest.raises(
            errors.CorruptCheckpoint, match=r"w\.npy: tiny/fc3/biases holds weights"
        ):
            fit(tensors, "w.npy")

    def test_shapes_of_another_input_size(self, tensors):
        larger = preprocessing_overrides.Overrides(image_size=32)
        found = fit(tensors, "", overrides=larger)
        assert found.missing_layers("fc5") == ["fc3"]

    def test_unknown_names(self):
        with pytest.raises(errors.MismatchedCheckpoint, match="none of its 1 tensors"):
            fit({"x": np.zeros(1)}, "")


class TestAssign:
    def test_every_value_arrives(self, tiny, tensors):
        model = build(tiny, "fc5")
        # The last layer has as many classes as the file.
        model_variables.assign(model, fit(tensors, "").values)
        for layer in LAYERS:
            for variable, suffix in SUFFIXES.items():
                found = getattr(model.get_layer(layer), variable).numpy()
                assert (found == tensors[f"tiny/{layer}/{suffix}"]).all()

    def test_layers_above_the_model_are_left_out(self, tiny, tensors):
        model = build(tiny, "pool2")
        model_variables.assign(model, fit(tensors, "").values)
        kernel = model.get_layer("conv2").kernel.numpy()
        assert (kernel == tensors["tiny/conv2/weights"]).all()

    def test_half_a_layer(self, tiny, tensors):
        """As the ledger says: the bias is restored, the kernel new."""
        tensors["tiny/fc4/weights"] = np.zeros((8, 9), np.float32)
        model = build(tiny, "fc4")
        before = model.get_layer("fc4").kernel.numpy()
        model_variables.assign(model, fit(tensors, "").values)
        layer = model.get_layer("fc4")
        assert (layer.kernel.numpy() == before).all()
        assert (layer.bias.numpy() == tensors["tiny/fc4/biases"]).all()

    def test_torch_layout_gives_the_same_outputs(self, tiny, tensors, monkeypatch):
        """The same network as a file with channels first and [out, in]."""
        torch = layer_naming.LayerNaming(
            source="torch",
            network="tiny",
            layers={layer: f"torch.{layer}" for layer in LAYERS},
            variables={"kernel": "{}.weight", "bias": "{}.bias"},
            layout="caffe",
            flattened_from={"fc3": (6, 2, 2)},
        )
        monkeypatch.setattr(
            naming_conventions, "NAMINGS", (*naming_conventions.NAMINGS, torch)
        )
        theirs = {}
        for layer in LAYERS:
            kernel = tensors[f"tiny/{layer}/weights"]
            if layer == "fc3":  # height, width, channels -> channels, height, width
                parts = kernel.reshape(2, 2, 6, 8)
                kernel = np.moveaxis(parts, 2, 0).reshape(24, 8)
            order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            theirs[f"torch.{layer}.weight"] = kernel.transpose(order)
            theirs[f"torch.{layer}.bias"] = tensors[f"tiny/{layer}/biases"]
        image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
        outputs = []
        for file in (tensors, theirs):
            model = build(tiny, "fc5")
            model_variables.assign(model, fit(file, "").values)
            outputs.append(np.asarray(model(image)))
        assert (outputs[0] == outputs[1]).all()


class TestLedger:
    def test_all_four_kinds(self, tiny, tensors):
        """The model ends below fc5; fc4 does not fit; something else is in the file."""
        tensors["tiny/fc4/weights"] = np.zeros((8, 9), np.float32)
        tensors["step"] = np.array(7)
        found = fit(tensors, "")
        entries = ledger.complete(found.entries, build(tiny, "fc4"))
        table = {
            (entry.variable, entry.tensor.removeprefix("tiny/")): entry.status
            for entry in entries
        }
        assert table == {
            ("conv1/kernel", "conv1/weights"): "restored",
            ("conv1/bias", "conv1/biases"): "restored",
            ("conv2/kernel", "conv2/weights"): "restored",
            ("conv2/bias", "conv2/biases"): "restored",
            ("fc3/kernel", "fc3/weights"): "restored",
            ("fc3/bias", "fc3/biases"): "restored",
            ("fc4/kernel", "fc4/weights"): "mismatched",
            ("fc4/kernel", ""): "new",
            ("fc4/bias", "fc4/biases"): "restored",
            ("", "fc5/weights"): "unused",
            ("", "fc5/biases"): "unused",
            ("", "step"): "unused",
        }
        assert len(entries) == len(table)

    def test_random_start_is_all_new(self, tiny):
        """Dropout's random state is no variable of the network's."""
        entries = ledger.complete((), build(tiny, "fc4"))
        assert [(entry.status, entry.variable, entry.shape) for entry in entries] == [
            ("new", "conv1/kernel", (3, 3, 3, 4)),
            ("new", "conv1/bias", (4,)),
            ("new", "conv2/kernel", (3, 3, 4, 6)),
            ("new", "conv2/bias", (6,)),
            ("new", "fc3/kernel", (24, 8)),
            ("new", "fc3/bias", (8,)),
            ("new", "fc4/kernel", (8, 7)),
            ("new", "fc4/bias", (7,)),
        ]

    def test_frozen_variables_are_listed_too(self, tiny, tensors):
        model = build(tiny, "pool2")
        model.trainable = False
        assert len(ledger.complete((), model)) == 4


class TestDigests:
    def test_change_with_any_bit_and_with_nothing_else(self, tiny):
        model = build(tiny, "fc4")
        before = model_variables.digests(model.variables)
        model(np.zeros((2, 16, 16, 3)), training=True)  # turns dropout's random state
        assert model_variables.digests(model.variables) == before
        bias = model.get_layer("fc3").bias
        bias.assign(np.nextafter(bias.numpy(), np.float32(1)))
        after = model_variables.digests(model.variables)
        assert {name for name in before if before[name] != after[name]} == {"fc3/bias"}
        bias.assign(np.zeros(8))
        assert model_variables.digests(model.variables) == before

    def test_are_of_weights_alone(self, tiny):
        """Two builds with the same weights are one network, for the cache as well."""
        first, second = build(tiny, "fc4"), build(tiny, "fc4")
        second.set_weights(first.get_weights())
        found = model_variables.digests(first.variables)
        assert found == model_variables.digests(second.variables)
        assert sorted(found) == sorted(
            f"{layer}/{variable}" for layer in LAYERS[:4] for variable in SUFFIXES
        )

    def test_minus_zero_is_another_value(self, tiny):
        bias = build(tiny, "conv1").get_layer("conv1").bias
        before = model_variables.digests([bias])
        bias.assign([0.0, 0.0, 0.0, -0.0])
        assert model_variables.digests([bias]) != before
