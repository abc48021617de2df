"""The stranger scores of exports are those of the run."""

import dataclasses

import keras
import numpy as np
import pytest

from model.evaluation import strangers
from model.export import exportable
from model.networks import head

CASES = {  # shape of the input of the head, whether it pools, directions
    "pooled by the head": ((40,), True, 5),
    "all numbers of a map": ((4, 4, 3), False, 5),
    "a map with so many numbers that its means count": ((80, 80, 3), False, 1),
    "no directions": ((40,), True, 0),
}


@pytest.mark.parametrize(
    ("shape", "pools", "num_directions"), CASES.values(), ids=CASES
)
def test_the_model_of_scores_computes_what_the_run_computes(
    shape, pools, num_directions
):
    random = np.random.default_rng(0)
    maps = keras.Input(shape)
    name = head.POOL_LAYER if pools else head.FLATTEN_LAYER
    output = keras.layers.Flatten(name=name)(maps)
    model = keras.Model(maps, output)
    features = random.uniform(0, 1, (8, *shape)).astype(np.float32)
    size = 3 if len(shape) == 3 and shape[0] == 80 else features[0].size

    def array(*sizes):
        return random.normal(0, 0.3, sizes).astype(np.float32)

    scorer = strangers.Scorer(
        mean=np.float32(random.uniform(0, 1, size) / size),
        directions=array(size, num_directions),
        weights=array(size, 4),
        offsets=array(4),
        scale=5.0,
    )
    built = exportable._build_scorer(scorer, model)
    assert built.input.name == name
    inputs = model.predict(features, verbose=0)
    scores = built.predict(inputs, verbose=0)
    assert scores.shape == (8,)
    expected = scorer.scores(features)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_probabilities_stay_the_first_output_and_the_threshold_is_stated(small_run):
    source = exportable.load_run(small_run)
    assert source.metadata["stranger_threshold"] == "1.0"
    assert source.model.output.shape == (None, 3)
    assert list(source.classify(np.zeros((1, 24, 24, 3), np.float32))) == [
        "probabilities",
        "stranger_score",
    ]
    plain = dataclasses.replace(source, whole=source.model)
    assert list(plain.classify(np.zeros((1, 24, 24, 3), np.float32))) == [
        "probabilities"
    ]
