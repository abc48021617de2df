import pytest

from pipeline.system import html_templates, program_name


@pytest.fixture(autouse=True)
def as_installed(monkeypatch):
    monkeypatch.setattr(program_name, "is_graft", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run: python -m pipeline.convert a/", "run: graft convert a/"),
        ("Train first: python train.py --ckpt=x", "Train first: graft train --ckpt=x"),
        ("as for pipeline.convert, or", "as for graft convert, or"),
        ("records from pipeline.convert.", "records from graft convert."),
        ("Run evaluate.py again", "Run graft evaluate again"),
        ("model.predict(image)", "model.predict(image)"),
        ("/home/a/train.py, b/model.predict", "/home/a/train.py, b/model.predict"),
        (
            "model.predict.py, pipeline.convert/a",
            "model.predict.py, pipeline.convert/a",
        ),
        ("python train.py:3", "python train.py:3"),
        ("python -m pip install", "python -m pip install"),
    ],
)
def test_commands_and_nothing_else_get_the_name_graft(text, expected):
    assert program_name.as_called(text) == expected


def test_pages_name_commands_as_they_are_called(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("{{ command }} {{ data|tojson }} {{ count }}")
    text = html_templates.load_template(page).render(
        command="python train.py --data='<a>'", data=["python evaluate.py"], count=3
    )
    assert text == 'graft train --data=&#39;&lt;a&gt;&#39; ["graft evaluate"] 3'
