from pathlib import Path

import pytest

from model.export import errors, places
from model.runs import finished_run


def left_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def choose(form, out="", quantize="none"):
    finished = finished_run.FinishedRun(directory=Path("/runs/a"), config={})
    return places.choose(finished, form, str(out), quantize)


def test_names_by_default():
    exported = Path("/runs/a/exported")
    assert choose("saved_model") == exported / "saved_model"
    assert choose("onnx") == exported / "model.onnx"
    assert choose("litert") == exported / "model.tflite"
    assert choose("litert", quantize="int8") == exported / "model-int8.tflite"
    assert choose("keras") == exported / "model.keras"


def test_names_that_do_not_do(tmp_path):
    with pytest.raises(errors.ExportError, match=r"ends in \.keras"):
        choose("keras", "model.h5")
    with pytest.raises(errors.ExportError, match="is a folder"):
        choose("onnx", tmp_path)


def test_folders_of_others_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(errors.ExportError, match="exists, and is no SavedModel"):
        choose("saved_model", tmp_path)
    assert choose("saved_model", tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "mine" / "saved_model.pb").touch()
    assert choose("saved_model", tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "file").touch()
    with pytest.raises(errors.ExportError, match="exists, and is no SavedModel"):
        choose("saved_model", tmp_path / "file")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    out = tmp_path / "model"
    for number in range(2):
        with places.replacing_folder(out) as partial:
            partial.mkdir()
            (partial / str(number)).touch()
        assert left_in(out) == [str(number)]
    with pytest.raises(KeyError), places.replacing_folder(out) as partial:
        partial.mkdir()
        raise KeyError
    assert left_in(out) == ["1"]
    assert left_in(tmp_path) == ["model"]


def test_labels(tmp_path):
    path = tmp_path / "labels.txt"
    with places.replacing_labels(path, b"a\nb\n") as partial:
        assert partial.read_bytes() == b"a\nb\n"
    with places.replacing_labels(path, b"a\nb\n"):
        assert path.read_bytes() == b"a\nb\n"
    with (
        pytest.raises(errors.ExportError, match="with other class names"),
        places.replacing_labels(path, b"c\n"),
    ):
        pass
    assert left_in(tmp_path) == ["labels.txt"]
