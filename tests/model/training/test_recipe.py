import pytest

from model.training import recipe
from pipeline.system.errors import DataError

DEFAULTS = {"epochs": 30, "rate": 0.0, "nesterov": False, "skip": "", "ckpt": "alexnet"}
OF_STAGES = {"epochs", "rate", "skip"}


def read(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return recipe.read(path, DEFAULTS, of_stages=OF_STAGES)


def test_values_and_stages(tmp_path):
    found = read(
        tmp_path,
        """
        ckpt = "vgg16"
        nesterov = true
        rate = 1
        [[stages]]
        epochs = 3
        [[stages]]
        rate = 1e-5
        skip = "fc6"
        """,
    )
    assert found.values == {"ckpt": "vgg16", "nesterov": True, "rate": 1.0}
    assert type(found.values["rate"]) is float
    assert found.stages == ({"epochs": 3}, {"rate": 1e-5, "skip": "fc6"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('["fc6", "fc7"]', "fc6,fc7"),
        ("[100, 200]", "100,200"),
        ('{"logits/*" = 10, "*/bias" = [2, 0.5]}', "logits/*=10,*/bias=2:0.5"),
    ],
)
def test_lists_and_tables_as_flags_have_them(tmp_path, value, text):
    assert read(tmp_path, f"skip = {value}").values == {"skip": text}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "recipe.toml: epoch: no such setting; expected epochs"),
        ("qqq = 3", "qqq: no such setting; expected one of ckpt, epochs, nesterov"),
        ("epochs = 3.5", "epochs = 3.5: expected a whole number"),
        ("epochs = true", "epochs = True: expected a whole number"),
        ('rate = "fast"', "rate = 'fast': expected a number"),
        ("rate = true", "expected a number"),
        ("nesterov = 1", "nesterov = 1: expected true or false"),
        ("skip = 1", "skip = 1: expected text"),
        ("skip = [[1]]", "expected text"),
        ("skip = [true]", "expected text"),
        ("[[stages]]\nepoch = 1", "stage 1: epoch: no such setting; expected epochs"),
        ("[[stage]]\nepochs = 1", r"stage: expected \[\[stages\]\]"),
        ('[[stages]]\nckpt = "a"', "stage 1: ckpt is for the whole training"),
        ("stages = 3", r"stages: expected tables, \[\[stages\]\]"),
        ("stages = [1]", "stages: expected tables"),
        ("epochs 3", "no TOML"),
        ("epochs = 3\nepochs = 4", "no TOML"),
        ("a = " + "[" * 100_000, "no TOML"),
        ("epochs = " + "9" * 5000, "no TOML|whole"),
        (f"rate = {10**400}", "expected a number"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_no_text(tmp_path):
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match="no TOML"):
        recipe.read(tmp_path / "recipe.toml", DEFAULTS, of_stages=())


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="no such recipe"):
        recipe.read(tmp_path / "none.toml", DEFAULTS, of_stages=())
