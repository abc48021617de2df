import pytest

from model.training import recipe
from model.weights import weight_settings
from pipeline.system import config_flags
from pipeline.system.errors import DataError, UsageError

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


def combined(**typed):
    """(ckpt, resize, image_size) of each combination."""
    return [
        (config.ckpt, config.overrides.resize, config.overrides.image_size)
        for config in recipe.combinations(typed)
    ]


def test_networks_resizings_and_sizes_are_combined_once_each():
    assert combined(ckpt="vgg16") == [("vgg16", "auto", 0)]
    assert combined(ckpt="vgg16, alexnet,vgg16", resize=("pad", "crop")) == [
        *(("vgg16", "pad", 0), ("vgg16", "crop", 0)),
        *(("alexnet", "pad", 0), ("alexnet", "crop", 0)),
    ]
    assert combined(ckpt="vgg16", image_size=(64, 64)) == [("vgg16", "auto", 64)]


def test_a_recipe_may_list_what_is_combined(tmp_path):
    path = tmp_path / "several.toml"
    path.write_text('ckpt = ["a", "b"]\nresize = ["crop", "pad"]\nimage_size = 64\n')
    both = combined(recipe=str(path), resize="squash")
    assert both == [("a", "squash", 64), ("b", "squash", 64)]
    assert len(combined(recipe=str(path), image_size=(64, 96))) == 8
    path.write_text('resize = ["crop", "cut"]')
    with pytest.raises(DataError, match="--resize=cut: expected one of auto, crop"):
        combined(recipe=str(path))


def test_a_file_with_commas_in_its_name_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "c,d.ckpt.index", "b"):
        (tmp_path / name).touch()
    ckpt = "a,b,b,c,d.ckpt,c"
    networks = [name for name, *_ in combined(ckpt=ckpt)]
    assert networks == ["a,b", "b", "c,d.ckpt", "c"]


@pytest.mark.parametrize(
    "more",
    [
        *({"train_from": "conv5"}, {"train": "conv5"}, {"views": 0}, {"seeds": 2}),
        *({"rotation": 9.0}, {"keep_head": True}, {"compare": "scratch"}),
        *({"find_rate": True}, {"recipe": "flickr_style"}),
    ],
    ids=str,
)
def test_of_several_networks_only_heads_train(more):
    assert recipe.combinations({"ckpt": "alexnet", **more})
    with pytest.raises(UsageError, match="only new heads are compared"):
        recipe.combinations({"ckpt": "alexnet,vgg16", **more})


def test_other_commands_take_one_value():
    values = {"resize": ("crop", "pad")}
    with pytest.raises(UsageError, match="--resize=crop,pad: expected one value; only"):
        config_flags.build(weight_settings.Overrides, values)
    settings = config_flags.settings_of(weight_settings.Overrides)
    assert settings["image_size"].parse("image_size", "64,96") == (64, 96)
    with pytest.raises(UsageError, match="--image_size=x: expected a whole number"):
        settings["image_size"].parse("image_size", "64,x")


def test_weights_by_default(capsys):
    assert recipe.combinations({})[0].ckpt == "efficientnet_lite0"
    assert "lite0; for AlexNet: --ckpt=alexnet" in capsys.readouterr().err
    assert recipe.combinations({"ckpt": "alexnet"})[0].ckpt == "alexnet"
    recipe.combinations({"recipe": "bees"})
    recipe.combinations({"resume": "runs/latest"})
    assert not capsys.readouterr().err
    with pytest.raises(UsageError, match="expected --ckpt with it"):
        recipe.combinations({"arch": "alexnet"})
