import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from model.evaluation import run_evaluation
from model.evaluation.evaluation_settings import Config
from model.evaluation.run_evaluation import EvaluationData
from model.evaluation.stored_logits import Predictions
from model.loop import metrics
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records.manifest_row import Row
from pipeline.system.errors import DataError

SPEC = InputSpec(size_px=8, short_side_px=9, source="test")


def colour_network(num_classes=3, cropping=0):
    """Logits are the mean blue, green and red: right about the drawn photos."""
    image = keras.Input((8, 8, 3))
    part = keras.layers.Cropping2D(cropping)(image)
    means = keras.layers.GlobalAveragePooling2D()(part)
    logits = keras.layers.Dense(num_classes, name="logits")
    model = keras.Model(image, logits(means))
    kernel = np.zeros((3, num_classes), np.float32)
    kernel[[2, 1, 0], [0, 1, 2]] = 0.1
    logits.set_weights([kernel, np.zeros(num_classes)])
    return model


def predict(records, split="test", model=None, **options):
    return run_evaluation.evaluate_split(
        model or colour_network(),
        EvaluationData(records=records, split=split),
        SPEC,
        Config(**{"batch_size": 7, **options}),
    )


@pytest.fixture
def by_hand():
    """Five photos of two classes, two mistakes; probabilities 3/4, 9/10 and so on."""
    kind = {"class_name": "a", "source_bytes": 1, "action": "copied"}
    odds = [(3, 1), (1, 9), (4, 1), (1, 1), (1, 4)]
    return Predictions(
        rows=[Row(path=f"{n}.jpg", sha256=str(n), **kind) for n in range(5)],
        labels=np.array([0, 0, 1, 0, 1]),
        logits=np.log(np.array(odds, np.float32)),
        class_names=("cat", "dog"),
        temperature=1.0,
    )


class TestFigures:
    def test_figures_match_those_computed_by_hand(self, by_hand):
        figures = by_hand.figures()
        assert json.loads(json.dumps(figures)) == figures
        assert figures.pop("errors") == [
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
        loss = -sum(map(math.log, (3 / 4, 1 / 10, 1 / 5, 1 / 2, 4 / 5))) / 5
        assert figures.pop("loss") == pytest.approx(loss)
        assert figures.pop("calibrated_loss") == pytest.approx(loss)
        # Confidences 3/4, 9/10, 4/5, 1/2, 4/5; the second and third are wrong. The
        # third and the fifth share a bin: 2 |1/2 - 4/5|.
        gaps = (1 - 3 / 4, 9 / 10, 2 * (4 / 5 - 1 / 2), 1 - 1 / 2)
        calibration = figures.pop("calibration")
        assert calibration["ece"] == pytest.approx(sum(gaps) / 5)
        assert calibration["ece_before"] == calibration["ece"]
        shares = [point["coverage"] for point in figures.pop("coverage")]
        assert shares == [1 / 5, 3 / 5, 4 / 5, 1]
        assert figures.pop("accuracy_ci95") == list(metrics.wilson_interval(3, 5))
        per_class = figures.pop("per_class")
        assert [row.pop("class_name") for row in per_class] == ["cat", "dog"]
        assert per_class == metrics.per_class(np.array([[2, 1], [1, 1]]))
        assert figures == {
            "num_examples": 5,
            "num_groups": 5,
            "effective_examples": 5.0,
            "accuracy": 3 / 5,
            "balanced_accuracy": pytest.approx((2 / 3 + 1 / 2) / 2),
            "macro_f1": pytest.approx((4 / 6 + 2 / 4) / 2),
            "top5_accuracy": 1.0,
            "temperature": 1.0,
            "tta": "none",
            "largest_class_share": 3 / 5,
            "class_names": ["cat", "dog"],
            "confusion_matrix": [[2, 1], [1, 1]],
        }

    def test_equally_confident_mistakes_keep_the_manifests_order(self, by_hand):
        logits = np.log(np.array([(1, 2)] * 5, np.float32))
        same = dataclasses.replace(by_hand, logits=logits)
        assert [error["path"] for error in same.errors()] == ["0.jpg", "1.jpg", "3.jpg"]

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

    def test_a_class_without_photos_has_a_row_of_its_own(self, by_hand):
        three = dataclasses.replace(
            by_hand,
            class_names=("cat", "dog", "owl"),
            logits=np.pad(by_hand.logits, ((0, 0), (0, 1)), constant_values=-9),
        )
        figures = three.figures()
        assert figures["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
        row = figures["per_class"][2]
        assert (row["class_name"], row["support"], row["recall"]) == ("owl", 0, None)


class TestEvaluateSplit:
    def test_every_photo_is_predicted_once_in_the_manifests_order(self, found):
        rows = found.included("test")
        assert len(rows) % 4
        predictions = predict(found, batch_size=4)
        assert list(predictions.rows) == list(rows)
        assert predictions.labels.tolist() == [found.labels[r.class_name] for r in rows]
        assert predictions.class_names == found.class_names
        # The network is right about every photo: any mix-up of rows would show.
        assert predictions.figures()["accuracy"] == 1
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
        logits = predict(found, batch_size=batch_size).logits
        np.testing.assert_allclose(logits, predict(found).logits, rtol=1e-6)

    def test_an_empty_split_is_an_error_that_says_what_to_do(self, found):
        rows = [dataclasses.replace(row, split="train") for row in found.rows]
        without = dataclasses.replace(found, rows=tuple(rows))
        with pytest.raises(
            DataError,
            match=r"the test split has no photos.* python -m pipeline\.split",
        ):
            predict(without)

    def test_another_number_of_classes_is_an_error(self, found):
        """As when config.json and model.keras of two runs were mixed."""
        with pytest.raises(DataError, match="3 classes, but the network has 5"):
            predict(found, model=colour_network(num_classes=5))


class TestViews:
    SIZES = np.array([[120, 160], [9, 9]])

    def test_each_kind_has_its_windows(self):
        central = crop_and_resize.central_views(self.SIZES, SPEC).windows.tolist()
        views = {
            tta: run_evaluation.views_of(tta, self.SIZES, SPEC)
            for tta in ("none", "flip", "ten_crop")
        }
        assert [view.mirrored.tolist() for view in views["none"]] == [[False] * 2]
        assert [view.mirrored.tolist() for view in views["flip"]] == [
            *([False] * 2, [True] * 2)
        ]
        for view in (*views["none"], *views["flip"]):
            assert view.windows.tolist() == central
        windows = [tuple(view.windows[0]) for view in views["ten_crop"]]
        assert windows[:5] == windows[5:]
        assert len(set(windows)) == 5
        mirrored = [bool(view.mirrored[0]) for view in views["ten_crop"]]
        assert mirrored == [False] * 5 + [True] * 5

    def test_views_are_averaged_geometrically(self, found):
        """A network that looks at the left half alone sees both halves."""
        left = colour_network(cropping=((0, 0), (0, 4)))
        right = colour_network(cropping=((0, 0), (4, 0)))
        both = predict(found, model=left, tta="flip")
        assert both.figures()["tta"] == "flip"
        halves = [predict(found, model=model).logits for model in (left, right)]
        assert not np.allclose(halves[0], both.logits)
        expected = sum(map(metrics.log_softmax, halves)) / 2
        # The mirrored pixels are rounded once more or less.
        np.testing.assert_allclose(both.logits, expected, atol=0.05)

    def test_ten_crop_predicts_every_photo(self, found):
        predictions, plain = predict(found, tta="ten_crop"), predict(found)
        assert (predictions.labels == plain.labels).all()
        assert (predictions.predicted == plain.predicted).all()
        assert (np.exp(predictions.logits).sum(axis=1) <= 1 + 1e-6).all()
