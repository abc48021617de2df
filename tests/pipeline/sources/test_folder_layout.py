import re
import shlex

import pytest

from pipeline.sources import class_folders, folder_layout
from pipeline.system.errors import DataError

# Name -> folders with a photo, each with its class, its split and class, or nothing;
# and a part of what is said of it, which is nothing if that is "".
READ = {
    "class folders": ("daisy: daisy, rose: rose", ""),
    "years in classes": (
        "daisy/2019: daisy, daisy/2020: daisy, rose/2019: rose",
        "folders below the classes only group photos, such as daisy/2019",
    ),
    "months in classes": (
        "daisy/2019-05: daisy, daisy/2019-06: daisy, rose/2019-05: rose",
        "only group photos",
    ),
    "doubled classes": ("cats/cats: cats, dogs/dogs: dogs", "only group"),
    "breeds": (
        "cats/siamese: cats, cats/manx: cats, dogs/poodle: dogs",
        "only group photos, such as cats/manx",
    ),
    "few names twice": (
        "a/x: a, a/y: a, a/z: a, b/x: b, b/u: b, b/v: b",
        "as a/x. If these are the classes, pass --layout=folder/class",
    ),
    "photos beside folders": ("a: a, a/x: a, a/y: a, b/x: b", "a/x"),
    "ZIP": ("flowers/a: a, flowers/b: b", "entered flowers, the only folder"),
    "ZIP in ZIP": (
        "flowers/flowers/a: a, flowers/flowers/b: b",
        "entered flowers/flowers, "
        "the only folder there: read as --layout=folder/folder/class",
    ),
    "one year": ("2023/daisy: daisy, 2023/rose: rose", "entered 2023"),
    "splits": ("train/a: train a, train/b: train b, val/a: validation a", ""),
    "cases": ("TRAIN/a: train a, TRAIN/b: train b, Test/a: test a", ""),
    "ing": ("Training/a: train a, Training/b: train b, Testing/a: test a", ""),
    "splits in ZIP": (
        "xray/train/a: train a, xray/train/b: train b, xray/val/a: validation a",
        "entered xray, the only folder there: read as --layout=folder/split/class",
    ),
    "doubled splits": (
        "train/train/a: train a, train/train/b: train b, test/test/a: test a",
        "entered train/train, "
        "the only folder there: read as --layout=split/folder/class",
    ),
    "training only": ("train/a: train a, train/b: train b", ""),
    "unlabelled test": (
        "train/a: train a, train/b: train b, test:",
        "left out: 1 file in test without a class. To classify them: python -m "
        "model.predict {root}/test",
    ),
    "unlabelled test in a folder": (
        "train/a: train a, train/b: train b, test/images:",
        "left out: 1 file in test without a class",
    ),
    "Tiny ImageNet": (
        "train/n1/images: train n1, train/n2/images: train n2, val/images:",
        "left out: 1 file in val without a class",
    ),
    "trains": (
        "bus: bus, car: car, train: train",
        "read as classes, not as splits: train (to leave out: --layout=none=train)",
    ),
    "stations": (
        "airport: airport, beach: beach, train_station: train_station",
        "not as splits: train_station",
    ),
}
# Name -> folders, with their meaning by the first flag that the error names.
REFUSED = {
    "kaggle": "training_set/training_set/a: train a, "
    "training_set/training_set/b: train b, test_set/test_set/a: test a",
    "intel": "seg_train/seg_train/a: train a, seg_train/seg_train/b: train b, "
    "seg_test/seg_test/a: test a, seg_pred/seg_pred:",
    "spaces": "Train set/a: train a, Train set/b: train b, Test set/a: test a",
    "COCO": "train2017/a: train a, train2017/b: train b, val2017:",
    "FER": "Training/a: train a, Training/b: train b, PublicTest/a: test a",
    "dev eval": "train/a: train a, train/b: train b, dev/a: validation a, "
    "eval/a: test a",
    "hold-out": "train/a: train a, train/b: train b, hold-out/a: test a",
    "one split twice": "train/a: train a, train/b: train b, val/a: validation a, "
    "valid/b: validation b",
    "extra folder": "train/a: train a, train/b: train b, test/a: test a, more/a:",
    "unlabelled folder": "train/a: train a, train/b: train b, more:",
    "test beside classes": "a: a, b: b, test:",
    "train beside a class": "c: c, train: train",
    "test and control": "control: control, test: test",
    "valid and invalid": "invalid: invalid, valid: valid",
    "train and others": "train/a: train a, train/b: train b, x:, y:",
    "no class folders": "train_images: train_images, test_images: test_images",
    "photos in folds": "fold1: fold1, fold2: fold2",
    "photos in parts": "images_1/images: images_1, images_2/images: images_2",
    "masks": "a/images: a, a/masks:, b/images: b, b/masks:",
    "masks beside": "images/a: a, images/b: b, masks/a:, masks/b:",
    "years": "2023/a: a, 2023/b: b, 2024/a: a",
    "cases": "2023/A: A, 2023/B: B, 2024/a: a, 2024/b: b",
    "folds": "fold1/a: a, fold1/b: b, fold2/a: a, fold2/b: b",
    "splits in folds": "fold_0/train/a: train a, fold_0/train/b: train b, "
    "fold_0/val/a: validation a, fold_1/train/a:, fold_1/val/b:",
    "sites": "north/a: a, north/b: b, south/a: a, south/b: b",
    "sites in splits": "train/north/a: train a, train/north/b: train b, "
    "train/south/a: train a, test/north/a: test a, test/south/a: test a",
    "splits in classes": "a/train: train a, a/test: test a, b/train: train b, "
    "b/test: test b",
    "sets in classes": "a/train_set: train a, a/test_set: test a, b/train_set: train b",
}


def parsed(folders):
    """{folder: its meaning} of "folder: meaning, folder: meaning"."""
    pairs = (item.partition(":") for item in folders.split(", "))
    return {folder: words.strip() for folder, _, words in pairs}


def make(folder, names, *others):
    for name in (*(f"{name}/1.jpg" for name in names), *others):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def meaning(source):
    return {
        photo.path.removesuffix("/1.jpg"): f"{photo.split} {photo.class_name}".strip()
        for photo in source.photos
        if photo.path.endswith("/1.jpg")
    }


@pytest.mark.parametrize(("folders", "note"), READ.values(), ids=[*READ])
def test_a_layout_with_one_meaning_is_read(tmp_path, folders, note):
    expected = parsed(folders)
    make(tmp_path, expected, "README", ".DS_Store", "__MACOSX/flowers/a/._1.jpg")
    source = class_folders.list_folders(tmp_path)
    assert meaning(source) == expected
    notes = source.notes[1:]
    assert note.format(root=tmp_path) in " ".join(notes)
    assert bool(notes) == bool(note)


@pytest.mark.parametrize("folders", REFUSED.values(), ids=[*REFUSED])
def test_a_layout_with_two_meanings_is_refused_with_flags_that_work(tmp_path, folders):
    expected = parsed(folders)
    make(tmp_path, expected)
    with pytest.raises(DataError) as error:
        class_folders.list_folders(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: ")
    flags = re.findall(r"pass ('[^']*'|[^ ,.]\S*?)(?=[.,]? |$)", message)
    values = [shlex.split(flag)[0].removeprefix("--layout=") for flag in flags]
    readings = [class_folders.list_folders(tmp_path, value) for value in values]
    assert meaning(readings[0]) == expected
    assert readings[-1].layout.endswith("class")
    assert meaning(readings[-1]) != expected or len(readings) == 1


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("class,none=tset", "holds no folder tset"),
        ("folder/folder/class", "no class folders as in folder/folder/class"),
        (
            "split/class",
            "does not say which split a is. .* --layout=split/class,none=a",
        ),
        ("train=a", "does not say which split b is. .* --layout=train=a,none=b"),
        ("none=a,none=b", "no class folders"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path, layout, message):
    make(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match=message):
        class_folders.list_folders(tmp_path, layout)


def test_folds_may_be_splits(tmp_path):
    names = [f"fold{number}/{name}" for number in (1, 2, 3) for name in "ab"]
    make(tmp_path, names)
    layout = "train=fold1,train=fold2,test=fold3"
    source = class_folders.list_folders(tmp_path, layout)
    assert meaning(source)["fold2/b"] == "train b"
    assert meaning(source)["fold3/b"] == "test b"
    assert source.settings == {
        "source": "split folders",
        "layout": layout,
        "given_splits": ["train", "test"],
    }


@pytest.mark.parametrize(
    "layout",
    ["claß", "class/class", "split", "class,class", "folder/class,train=a", "a="],
)
def test_values_without_a_meaning_are_refused(layout):
    with pytest.raises(ValueError, match=f"--layout={layout}: expected"):
        folder_layout.parse(layout)


def test_a_folder_has_one_split():
    with pytest.raises(ValueError, match="train=x,test=x: x is given twice"):
        folder_layout.parse("train=x,test=x")
