import dataclasses

import pytest

from pipeline.system import config_flags, flag_help
from pipeline.system.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colours:
    red: float = config_flags.setting(0.5, "Red.", group="B", lower=0, below=1)
    dark: bool = config_flags.setting(True, "Darkens.", group="B")

    def __post_init__(self):
        config_flags.check(self)


COLOURS = Colours()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    source: str = config_flags.argument("SOURCE", "A source.", "here")
    target: str = config_flags.argument("TARGET", "A target.")
    size: int = config_flags.setting(
        3, "Size in pixels.", group="A", basic=True, above=0
    )
    kind: str = config_flags.setting(
        "", "Kind.", group="A", basic=True, choices=("", "big", "small")
    )
    hidden: str = config_flags.setting("", "In recipes.", group="A", is_flag=False)
    colours: Colours = COLOURS

    def __post_init__(self):
        config_flags.check(self)


SETTINGS = config_flags.settings_of(Config)


def test_settings_of_groups_are_settings_of_the_whole():
    assert list(SETTINGS) == ["size", "kind", "hidden", "red", "dark"]
    config = config_flags.build(Config, {"target": "a", "red": 0.25, "other": 1})
    assert config == Config(target="a", colours=Colours(red=0.25))
    config = config_flags.changed(config, {"dark": False, "size": 4})
    assert config == Config(target="a", size=4, colours=Colours(red=0.25, dark=False))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--size=5", "--kind", "big"], {"size": 5, "kind": "big"}),
        (["--dark"], {"dark": True}),
        (["--nodark"], {"dark": False}),
        (["--dark=False", "-size=2"], {"dark": False, "size": 2}),
        (["--size=1", "--size=2"], {"size": 2}),
        (["--kind="], {"kind": ""}),
    ],
)
def test_flags_are_read_in_all_their_forms(words, values):
    assert config_flags.parse(words, SETTINGS) == (values, [], [])


def test_a_home_folder_is_expanded_as_shells_do_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    place = config_flags.Setting(default="", help="", group="", value="FILES")
    assert place.parse("lists", "~/a,~/b,c~") == "/home/ann/a,/home/ann/b,c~"
    assert dataclasses.replace(place, value="REGEX").parse("x", "~/a") == "~/a"


def test_arguments_and_unknown_flags_are_told_apart_from_flags():
    words = ["a", "--other=1", "--nosize", "-", "--size=2", "--", "--dark"]
    values, unknown, arguments = config_flags.parse(words, SETTINGS)
    assert values == {"size": 2}
    assert unknown == ["--other=1", "--nosize"]
    assert arguments == ["a", "-", "--dark"]


@pytest.mark.parametrize(
    ("words", "values"),
    [(["t"], {"target": "t"}), (["s", "t"], {"source": "s", "target": "t"})],
)
def test_an_optional_argument_goes_without(words, values):
    arguments = config_flags.arguments_of(Config)
    assert config_flags.assign(words, arguments, "") == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "TARGET is missing. Expected, for example: do it"),
        (["", "t"], "TARGET is missing"),
        (["a", "b", "c"], "unexpected argument 'c'"),
    ],
)
def test_a_wrong_number_of_arguments_is_refused(words, message):
    with pytest.raises(UsageError, match=message):
        config_flags.assign(words, config_flags.arguments_of(Config), "do it")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "--size=0: expected above 0"),
        ({"size": 1.5}, "--size=1.5: expected a whole number, above 0"),
        ({"red": 1.0}, "--red=1.0: expected 0 or more, below 1"),
        ({"red": float("nan")}, "--red=nan: expected 0 or more, below 1"),
        ({"dark": 1}, "--dark=1: expected true or false"),
        (
            {"kind": "bigg"},
            r"--kind=bigg: expected one of big, small; did you mean big\?",
        ),
        ({"kind": "x"}, "--kind=x: expected one of big, small"),
        ({"size": 10**400}, r"0: expected above 0, below 2\^63$"),
        ({"red": float("inf")}, "--red=inf: expected 0 or more, below 1"),
        ({"hidden": 3}, "--hidden=3: expected text"),
    ],
    ids=str,
)
def test_values_outside_of_bounds_and_choices_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        config_flags.build(Config, {"target": "a", **values})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size=x"], "--size=x: expected a whole number"),
        (["--size=1_0"], "--size=1_0: expected a whole number"),
        (["--size=\u0663"], "--size=\u0663: expected a whole number"),
        (["--red=1_0.5"], "--red=1_0.5: expected a number"),
        (["--size"], "--size: no value. Expected --size=VALUE"),
        (["--kind", "--size=3"], "--kind: no value. Expected --kind=VALUE"),
        (["--kind", "--nodark"], "--kind: no value"),
    ],
)
def test_flags_without_a_value_of_their_type_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        config_flags.parse(words, SETTINGS)


@pytest.mark.parametrize(
    ("word", "name"),
    [("--sizes=3", "size"), ("--SIZE", "size"), ("-kinds", "kind"), ("--xyz", "")],
)
def test_the_flag_that_is_meant_is_found_by_its_name(word, name):
    assert config_flags.meant(word, SETTINGS) == name


def test_help_shows_basic_flags_and_full_help_all():
    arguments = config_flags.arguments_of(Config)
    doc = "Do it.\n\n    python do.py a\n"
    short = flag_help.screen(doc, arguments, SETTINGS, full=False)
    assert short.splitlines() == [
        "Do it.",
        "",
        "usage: python do.py [SOURCE] TARGET [--flag=value ...], for example",
        "    python do.py a",
        "",
        "Arguments",
        "  SOURCE                  A source.",
        "  TARGET                  A target.",
        "",
        "A",
        "  --size=N                Size in pixels. (default 3)",
        "  --kind=CHOICE           Kind. (big, small)",
        "",
        "--helpfull lists 2 more flags.",
    ]
    full = flag_help.screen(doc, arguments, SETTINGS, full=True).splitlines()
    assert "  --[no]dark              Darkens. (default on)" in full
