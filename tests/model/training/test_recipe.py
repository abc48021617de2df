import pytest

from model.training import recipe
from pipeline.system import config_flags
from pipeline.system.errors import DataError

DEFAULTS = {"epochs": 30, "rate": 0.0, "nesterov": False, "skip": "", "ckpt": "alexnet"}
SETTINGS = {
    name: config_flags.Setting(
        default=default, help="", group="", per_stage=name in ("epochs", "rate", "skip")
    )
    for name, default in DEFAULTS.items()
}


def read(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="latin-1")
    return recipe.read(path, SETTINGS)


def test_a_recipe_has_values_and_stages(tmp_path):
    content = read(
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
    assert content.values == {"ckpt": "vgg16", "nesterov": True, "rate": 1.0}
    assert type(content.values["rate"]) is float
    assert content.stages == ({"epochs": 3}, {"rate": 1e-5, "skip": "fc6"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('["fc6", "fc7"]', "fc6,fc7"),
        ("[100, 200]", "100,200"),
        ('{"logits/*" = 10, "*/bias" = [2, 0.5]}', "logits/*=10,*/bias=2:0.5"),
    ],
)
def test_lists_and_tables_become_text_as_flags_have_it(tmp_path, value, text):
    assert read(tmp_path, f"skip = {value}").values == {"skip": text}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "recipe.toml: epoch: no such setting; expected epochs"),
        ("qqq = 3", "qqq: no such setting; expected ckpt, epochs, nesterov"),
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
        ('[[stages]]\nckpt = "a"', "stage 1: ckpt holds for the whole training"),
        ("stages = 3", r"stages: expected tables, \[\[stages\]\]"),
        ("stages = [1]", "stages: expected tables"),
        ("epochs 3", "not TOML"),
        ("\xff\xfe\0", "not TOML"),
        ("epochs = 3\nepochs = 4", "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("epochs = " + "9" * 5000, "not TOML|whole"),
        (f"rate = {10**400}", "expected a number"),
    ],
    ids=lambda text: text[:20],
)
def test_a_wrong_recipe_names_what_is_wrong(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_recipes_are_found_by_name_or_path(tmp_path):
    (tmp_path / "bees.toml").write_text("")
    path = recipe.find(str(tmp_path / "bees.toml"), tmp_path / "none")
    assert path == recipe.find("bees", tmp_path)
    with pytest.raises(DataError, match=r"--recipe=bee: no such recipe.* bees"):
        recipe.find("bee", tmp_path)
