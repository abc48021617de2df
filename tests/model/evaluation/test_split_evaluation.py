import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from model.evaluation import split_evaluation
from model.evaluation.predictions import Predictions
from model.loop import metrics
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records.manifest_row import Row
from pipeline.system.errors import DataError

SPEC = InputSpec(size_px=8, short_side_px=9, source="test")


def row(path, **how):
    return Row(
        path=path, class_name="a", sha256="0", source_bytes=1, action="copied", **how
    )


def colour_network(num_classes=3):
    """Logits are the mean blue, green and red: right about the drawn photos."""
    image = keras.Input((8, 8, 3))
    means = keras.layers.GlobalAveragePooling2D()(image)
    kernel = np.zeros((3, num_classes), np.float32)
    kernel[[2, 1, 0], [0, 1, 2]] = 0.1
    logits = keras.layers.Dense(num_classes, name="logits")
    model = keras.Model(image, logits(means))
    model.get_layer("logits").set_weights([kernel, np.zeros(num_classes)])
    return model


def predict(
    found,
    split,
    batch_size=7,
    model=None,
    temperature=1.0,
    tta="none",
    num_features=0,
):
    predictions = split_evaluation.evaluate_split(
        model or colour_network(),
        found,
        split,
        SPEC,
        split_evaluation.EvaluationOptions(
            batch_size=batch_size, tta=tta, num_features=num_features
        ),
    )
    return dataclasses.replace(predictions, temperature=temperature)


@pytest.fixture
def by_hand():
    """Five photos of two classes, two mistakes; probabilities 3/4, 9/10 and so on."""
    odds = [(3, 1), (1, 9), (4, 1), (1, 1), (1, 4)]
    return Predictions(
        rows=[row(f"{n}.jpg") for n in range(5)],
        labels=np.array([0, 0, 1, 0, 1]),
        logits=np.log(np.array(odds, np.float32)),
        class_names=("cat", "dog"),
        temperature=1.0,
    )


class TestFigures:
    def test_figures_match_those_computed_by_hand(self, by_hand):
        figures = by_hand.figures()
        errors = figures.pop("errors")
        assert [error["path"] for error in errors] == ["1.jpg", "2.jpg"]
        loss = -sum(map(math.log, (3 / 4, 1 / 10, 1 / 5, 1 / 2, 4 / 5))) / 5
        assert figures.pop("loss") == pytest.approx(loss)
        assert figures.pop("calibrated_loss") == pytest.approx(loss)
        # Confidences 3/4, 9/10, 4/5, 1/2, 4/5; the second and third are wrong. The
        # third and the fifth share a bin: 2 |1/2 - 4/5|.
        gaps = (1 - 3 / 4, 9 / 10, 2 * (4 / 5 - 1 / 2), 1 - 1 / 2)
        calibration = figures.pop("calibration")
        assert calibration["ece"] == pytest.approx(sum(gaps) / 5)
        assert calibration["ece_before"] == calibration["ece"]
        assert [point["coverage"] for point in figures.pop("coverage")] == [
            *(1 / 5, 3 / 5, 4 / 5, 1)
        ]
        assert figures.pop("accuracy_ci95") == list(metrics.wilson_interval(3, 5))
        assert figures == {
            "num_examples": 5,
            "accuracy": 3 / 5,
            "top5_accuracy": 1.0,
            "temperature": 1.0,
            "tta": "none",
            "largest_class_share": 3 / 5,
            "class_names": ["cat", "dog"],
            "confusion_matrix": [[2, 1], [1, 1]],
            "per_class": [
                {
                    "class_name": "cat",
                    "precision": pytest.approx(2 / 3),
                    "recall": pytest.approx(2 / 3),
                    "f1": pytest.approx(2 / 3),
                    "support": 3,
                },
                {
                    "class_name": "dog",
                    "precision": 0.5,
                    "recall": 0.5,
                    "f1": 0.5,
                    "support": 2,
                },
            ],
        }

    def test_figures_can_be_written_as_json(self, by_hand):
        figures = by_hand.figures()
        assert json.loads(json.dumps(figures)) == figures

    def test_most_confident_mistakes_come_first(self, by_hand):
        assert by_hand.errors() == [
            {
                "path": "1.jpg",
                "true": "cat",
                "predicted": "dog",
                "probability": pytest.approx(9 / 10),
            },
            {
                "path": "2.jpg",
                "true": "dog",
                "predicted": "cat",
                "probability": pytest.approx(4 / 5),
            },
        ]

    def test_equally_confident_mistakes_keep_the_manifests_order(self, by_hand):
        logits = np.log(np.array([(1, 2)] * 5, np.float32))
        same = dataclasses.replace(by_hand, logits=logits)
        assert [error["path"] for error in same.errors()] == ["0.jpg", "1.jpg", "3.jpg"]

    def test_without_mistakes_there_are_no_errors(self, by_hand):
        right = dataclasses.replace(by_hand, labels=np.array([0, 1, 0, 0, 1]))
        assert right.errors() == []
        assert right.figures()["accuracy"] == 1

    def test_temperature_changes_probabilities_and_nothing_else(self, by_hand):
        """Odds of 9 to 1 are 3 to 1 at temperature 2."""
        warm = dataclasses.replace(by_hand, temperature=2.0)
        expected = [1 / 4, 3 / 4]
        np.testing.assert_allclose(warm.probabilities()[1], expected, rtol=1e-6)
        np.testing.assert_allclose(warm.probabilities().sum(axis=1), 1)
        before, after = by_hand.figures(), warm.figures()
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {
            *("calibrated_loss", "calibration", "coverage", "errors", "temperature")
        }
        assert after["calibrated_loss"] == pytest.approx(
            metrics.mean_loss(by_hand.logits / 2, by_hand.labels)
        )

    def test_a_class_without_photos_has_no_precision(self, by_hand):
        three = dataclasses.replace(
            by_hand,
            class_names=("cat", "dog", "owl"),
            logits=np.pad(by_hand.logits, ((0, 0), (0, 1)), constant_values=-9),
        )
        figures = three.figures()
        assert figures["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
        assert figures["per_class"][2] == {
            "class_name": "owl",
            "precision": None,
            "recall": None,
            "f1": None,
            "support": 0,
        }


def test_saved_predictions_read_back(by_hand, tmp_path):
    odd = row("ä \udcff\n.jpg")
    saved = dataclasses.replace(by_hand, rows=[odd, *by_hand.rows[1:]])
    saved.save(tmp_path / "test.npz")
    with np.load(tmp_path / "test.npz") as file:
        assert sorted(file.files) == ["label", "logits", "path", "sha256"]
        assert file["path"].tolist() == [odd.path, "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
        assert file["sha256"].tolist() == ["0"] * 5
        assert file["label"].tolist() == [0, 0, 1, 0, 1]
        assert file["logits"].dtype == np.float32
        assert (file["logits"] == by_hand.logits).all()


class TestEvaluateSplit:
    def test_every_photo_is_predicted_once_in_the_manifests_order(self, found):
        rows = found.included("test")
        assert len(rows) % 4
        predictions = predict(found, "test", batch_size=4)
        assert list(predictions.rows) == list(rows)
        assert predictions.labels.tolist() == [found.labels[r.class_name] for r in rows]
        assert predictions.class_names == found.class_names
        # The drawn photos are told by their colour: any mix-up of rows would show.
        figures = predictions.figures()
        assert figures["accuracy"] == 1
        assert figures["num_examples"] == len(rows) > 3
        assert len(set(predictions.labels)) == 3

    def test_logits_are_those_of_the_network(self, found):
        predictions = predict(found, "validation")
        images = image_batches.Images(
            found, predictions.rows, SPEC, batch_size=len(predictions.rows)
        )
        views = crop_and_resize.central_views(images.sizes, SPEC)
        (batch,) = images.run(np.arange(len(predictions.rows)), views)
        expected = batch["image"].numpy().mean(axis=(1, 2))[:, ::-1] * 0.1
        np.testing.assert_allclose(predictions.logits, expected, rtol=1e-5)
        assert predictions.logits.dtype == np.float32

    @pytest.mark.parametrize("batch_size", [1, 100])
    def test_batch_size_does_not_matter(self, found, batch_size):
        predictions = predict(found, "test", batch_size)
        np.testing.assert_allclose(
            predictions.logits, predict(found, "test").logits, rtol=1e-6
        )

    def test_all_photos_can_be_evaluated(self, found):
        predictions = predict(found, "all")
        assert len(predictions.labels) == len(found.included()) == 60
        assert predictions.figures()["accuracy"] == 1

    def test_one_mistake_is_named(self, found):
        """A photo filed under the wrong class is the one that is reported."""
        model = colour_network()
        kernel, bias = model.get_layer("logits").get_weights()
        bias[2] = 1000  # always says red
        model.get_layer("logits").set_weights([kernel, bias])
        predictions = predict(found, "test", model=model, temperature=50.0)
        wrong = {error["path"] for error in predictions.errors()}
        assert wrong == {
            row.path for row in found.included("test") if row.class_name != "red"
        }
        assert {error["predicted"] for error in predictions.errors()} == {"red"}
        chances = [error["probability"] for error in predictions.errors()]
        assert chances == sorted(chances, reverse=True)

    def test_an_empty_split_is_an_error_that_says_what_to_do(self, found):
        rows = [dataclasses.replace(row, split="train") for row in found.rows]
        without = dataclasses.replace(found, rows=tuple(rows))
        with pytest.raises(
            DataError,
            match=r"the test split has no photos.* python -m pipeline\.split",
        ):
            predict(without, "test")

    def test_another_number_of_classes_is_an_error(self, found):
        """As when config.json and model.keras of two runs were mixed."""
        with pytest.raises(DataError, match="3 classes, but the network has 5"):
            predict(found, "test", model=colour_network(num_classes=5))


class TestViews:
    def test_flip_averages_a_photo_and_its_mirror_image(self, found):
        """A network that looks at the left half alone sees both halves."""
        model = half_network()
        plain, both = (
            predict(found, "test", model=model),
            predict(found, "test", model=model, tta="flip"),
        )
        assert both.figures()["tta"] == "flip"
        assert not np.allclose(plain.logits, both.logits)
        mirrored = half_network(left=False)
        other = predict(found, "test", model=mirrored)
        expected = [metrics.log_softmax(one.logits) for one in (plain, other)]
        # The mirrored pixels are rounded once more or less.
        np.testing.assert_allclose(both.logits, sum(expected) / 2, atol=0.05)

    def test_ten_crop_sees_every_photo_ten_times(self, found):
        predictions = predict(found, "test", tta="ten_crop")
        plain = predict(found, "test")
        assert (predictions.labels == plain.labels).all()
        assert (predictions.logits.argmax(axis=1) == plain.logits.argmax(axis=1)).all()
        np.testing.assert_allclose(
            np.exp(predictions.logits).sum(axis=1) <= 1 + 1e-6, True
        )


def half_network(left=True):
    """As colour_network, of one half of the photo."""
    image = keras.Input((8, 8, 3))
    cropping = ((0, 0), (0, 4)) if left else ((0, 0), (4, 0))
    half = keras.layers.Cropping2D(cropping)(image)
    means = keras.layers.GlobalAveragePooling2D()(half)
    model = keras.Model(image, keras.layers.Dense(3, name="logits")(means))
    kernel = np.zeros((3, 3), np.float32)
    kernel[[2, 1, 0], [0, 1, 2]] = 0.1
    model.get_layer("logits").set_weights([kernel, np.zeros(3)])
    return model


class TestFeatures:
    def test_features_are_the_inputs_of_the_final_layer(self, found):
        """Here the mean colour, from which the logits follow."""
        model = colour_network()
        predictions = predict(found, "test", model=model, num_features=1000)
        plain = predict(found, "test", model=model)
        assert plain.features is None
        np.testing.assert_array_equal(predictions.logits, plain.logits)
        kernel, bias = model.get_layer("logits").get_weights()
        assert predictions.feature_examples.tolist() == list(
            range(len(predictions.rows))
        )
        expected = predictions.features @ kernel + bias
        np.testing.assert_allclose(predictions.logits, expected, rtol=1e-5)

    def test_features_of_some_photos_are_evenly_spread(self, found):
        predictions = predict(found, "all", num_features=5)
        whole = predict(found, "all", num_features=60)
        assert predictions.feature_examples.tolist() == [0, 15, 30, 44, 59]
        np.testing.assert_array_equal(
            predictions.features, whole.features[predictions.feature_examples]
        )

    def test_features_are_those_of_the_central_crop(self, found):
        plain = predict(found, "test", num_features=3)
        both = predict(found, "test", num_features=3, tta="flip")
        np.testing.assert_array_equal(plain.features, both.features)
