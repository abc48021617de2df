import pytest

from pipeline.sources import class_labels, photo_csv
from pipeline.system.errors import DataError


def listed(root, body, names=()):
    (root / "photos.csv").write_bytes(body.encode())
    named = class_labels.Names(path=root / "labels", names=names) if names else None
    return photo_csv.list_photos(root, root / "photos.csv", named)


def rows(found):
    return [(photo.path, photo.class_name, photo.split) for photo in found.photos]


def test_columns_give_path_and_label(tmp_path):
    found = listed(tmp_path, "path,label\nx/2.jpg,roses\n1.jpg,daisy\n")
    assert rows(found) == [("1.jpg", "daisy", ""), ("x/2.jpg", "roses", "")]
    assert (found.kind, found.given) == ("CSV", ())
    assert found.notes == ("CSV: 2 photos in photos.csv, labels are class names",)


def test_quotes_are_read_and_other_columns_ignored(tmp_path):
    found = listed(
        tmp_path,
        "\ufeff Split ,by,PATH,label\r\n"
        'train,"me, ""and"" you","a, b.jpg","c, d"\r\n'
        "\r\n"
        ',,2.jpg,"e ""f"""\r\n'
        'Val,x,3.jpg,e "f"\r\n',
    )
    assert rows(found) == [
        ("2.jpg", 'e "f"', ""),
        ("3.jpg", 'e "f"', "validation"),
        ("a, b.jpg", "c, d", "train"),
    ]
    assert found.given == ("train", "validation")


def test_numbers_and_names_are_matched_with_class_names(tmp_path):
    found = listed(tmp_path, "path,label\na,1\nb,0\n", names=("z", "y"))
    assert rows(found) == [("a", "y", ""), ("b", "z", "")]
    found = listed(tmp_path, "path,label\na,y\nb,z\n", names=("z", "y"))
    assert found.class_names == ("z", "y")
    assert [found.labels[row[1]] for row in rows(found)] == [1, 0]


def test_line_breaks_in_fields_do_not_disturb_line_numbers(tmp_path):
    body = 'path,label,note\na,x,"1\n2\n3"\nb,,\n'
    with pytest.raises(DataError, match=r"photos\.csv line 5: no label"):
        listed(tmp_path, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "empty. Expected a header"),
        ("a.jpg,daisy\nb.jpg,roses\n", "one column path, found 0. The header has 'a.j"),
        ("path,class\na,b\n", "expected one column label, found 0.*'path', 'class'"),
        ("path;label\na;b\n", "'path;label'. Separate fields by commas"),
        ("path,label,Path\na,b,c\n", "expected one column path, found 2"),
        ("path,label\n", "no photos listed"),
        ("path,label\na,b,c\n", "line 2: has 3 fields. Expected 2"),
        ("path,label\na,x\nb\n", "line 3: has 1 fields. Expected 2"),
        ("path,label\n,x\n", "line 2: no path"),
        ("path,label,split\na,x,\nb,y,dev\n", "line 3: split 'dev' is unknown"),
        ('path,label\na,"x\n', "line 2: unexpected end"),
        ('path,label\n"a"b,x\n', "line 2: "),
        ("path,label\n../a,x\nb,y\n", "line 2: ../a lies outside"),
        ("path,label\na,x\nb,x\n", "one class only, 'x'"),
        ('path,label\na,"x\ny"\nb,z\n', "control character"),
        (f"path,label\na,{'x' * 600}\nb,z\n", "has 600 characters"),
        (f"path,label\na,{'x' * 140_000}\n", "line 2: field larger than field limit"),
        ('path,label\na,"' + "x\n" * 70_000, "field larger than field limit"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, body, message):
    with pytest.raises(DataError, match=message):
        listed(tmp_path, body)
