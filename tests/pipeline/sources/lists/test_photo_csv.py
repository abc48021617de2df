import pytest

from pipeline.sources import photo_source
from pipeline.sources.lists import label_files, listed_photos, photo_csv
from pipeline.system.errors import DataError
from tests.pipeline.sources.test_class_folders import make

PHOTOS = ("1.jpg", "2.jpg", "a", "b", "c/1.jpg", "c/2.jpg")


def listed(root, body, names=(), columns=""):
    make(root, *PHOTOS)
    path = root / "photos.csv"
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    named = label_files.Names(root / "labels", names) if names else None
    entries = photo_csv.read(path, columns)
    source = listed_photos.list_photos(root, "CSV", [path], entries, named)
    return photo_source.check(source)


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


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "read_as"),
    [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", ""), ("cp1252", "Windows-1252")],
)
def test_delimiter_and_encoding_are_those_of_the_file(
    tmp_path, capsys, delimiter, encoding, read_as
):
    body = "path,label\n1.jpg,Gänseblümchen\n2.jpg,Löwenzahn\n".replace(",", delimiter)
    source = listed(tmp_path, body.encode(encoding))
    assert source.class_names == ("Gänseblümchen", "Löwenzahn")
    lines = capsys.readouterr().err
    assert ("read as Windows-1252, as in 'Gänseblümchen'" in lines) == bool(read_as)
    assert ("separate the columns" in lines) == (delimiter != ",")


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=; \r"])
def test_excels_first_line_gives_the_delimiter(tmp_path, line):
    body = f"{line}\npath;label;by, at\n1.jpg;x, y;a,b,c\n2.jpg;z;\n;;\n"
    assert rows(listed(tmp_path, body)) == [("1.jpg", "x, y", ""), ("2.jpg", "z", "")]
    with pytest.raises(DataError, match=r"photos\.csv line 3: no label"):
        listed(tmp_path, f"{line}\npath;label\n1.jpg;\n")


class TestColumns:
    def test_columns_may_be_named(self, tmp_path):
        header = "Label;filename;label;Set;who\n"
        body = f"{header}x;1.jpg;a;val;p\ny;2.jpg;b;;p\nz;c/1.jpg;a;;\n"
        columns = "path:filename,label:label,split:set,group:who"
        source = listed(tmp_path, body, columns=columns)
        assert [photo.group for photo in source.photos] == ["p", "p", ""]
        assert rows(source) == [
            ("1.jpg", "a", "validation"),
            ("2.jpg", "b", ""),
            ("c/1.jpg", "a", ""),
        ]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ("label:bred", "one column bred, found 0.* has 'path', 'breed'"),
            ("label:breed,split:set", "one column set, found 0"),
            ("", "one column label, found 0.*'path', 'breed'.*--columns=label:breed"),
        ],
    )
    def test_unknown_columns_are_refused_with_the_others(
        self, tmp_path, columns, message
    ):
        with pytest.raises(DataError, match=message):
            listed(tmp_path, "path,breed\na,b\n", columns=columns)

    @pytest.mark.parametrize("text", ["path", "path:", "file:x", "path:a,path:b"])
    def test_what_names_no_column_is_refused(self, text):
        with pytest.raises(ValueError, match="Expected path, label, split, group"):
            photo_csv.parse_columns(text)


def splits(root, title, *values):
    """First letters of the splits of four photos; "-" for none."""
    photos = ("1.jpg", "2.jpg", "c/1.jpg", "c/2.jpg")
    lines = map(",".join, zip(photos, "xyxy", values, strict=True))
    source = listed(root, "\n".join([f"path,label,{title}", *lines]))
    return " ".join((p.split or "-")[:2].removesuffix("r") for p in source.photos)


class TestSplits:
    @pytest.mark.parametrize(
        ("title", "values", "expected", "yes"),
        [
            ("is_valid", ("False", "True", "False", "False"), "t va t t", "validation"),
            ("IS_TEST", "0100", "t te t t", "test"),
            ("is_training_image", "1101", "t t te t", "train"),
            ("Set", ("train", "TEST", "valid", ""), "t te va -", ""),
            ("data_split", ("training", "val", "testing", "train"), "t va te t", ""),
        ],
    )
    def test_columns_that_give_splits_are_used_and_said(
        self, tmp_path, capsys, title, values, expected, yes
    ):
        assert splits(tmp_path, title, *values) == expected
        note = f"photos.csv: column {title} gives the splits"
        note += f"; yes means {yes}" if yes else ""
        assert capsys.readouterr().err.endswith(f"{note}\n")

    @pytest.mark.parametrize(
        ("title", "values"),
        [
            ("fold", "0123"),
            ("dataset", ("A", "B", "A", "B")),
            ("test_result", "0100"),
            ("kind", ("train", "test", "", "")),
            ("is_valid", "1110"),
        ],
    )
    def test_other_columns_that_look_like_splits_are_pointed_out(
        self, tmp_path, capsys, title, values
    ):
        assert splits(tmp_path, title, *values) == "- - - -"
        (line,) = capsys.readouterr().err.splitlines()
        assert f"column {title} looks like a split, but is not used" in line
        assert line.endswith(f"--columns=split:{title}")

    @pytest.mark.parametrize(
        ("title", "values"),
        [("vehicle", ("train", "car", "", "")), ("set", "7777"), ("note", "0110")],
    )
    def test_other_columns_are_ignored(self, tmp_path, capsys, title, values):
        assert splits(tmp_path, title, *values) == "- - - -"
        assert capsys.readouterr().err == ""

    def test_a_column_that_the_user_names_is_used_as_it_is(self, tmp_path, capsys):
        body = "path,label,is_valid,split\n1.jpg,x,1,a\n2.jpg,y,1,b\nc/1.jpg,x,0,c\n"
        source = listed(tmp_path, body, columns="split:is_valid")
        assert source.notes[0].endswith("; 1 train, 2 validation")
        assert capsys.readouterr().err == ""

    def test_two_columns_of_splits_are_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"columns set and is_test .*=split:set"):
            splits(tmp_path, "set,is_test", "train,0", "val,1", ",0", ",0")


def test_line_breaks_in_fields_do_not_disturb_line_numbers(tmp_path):
    body = 'path,label,note\na,x,"1\n2\n3"\nb,,\n'
    with pytest.raises(DataError, match=r"photos\.csv line 5: no label"):
        listed(tmp_path, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "empty. Expected a header"),
        (
            "a.jpg,daisy\nb.jpg,roses\n",
            "one column path, found 0. The first line has 'a.j.*Put a line of titles",
        ),
        ("path,class\na,b\n", "expected one column label, found 0.*'path', 'class'"),
        ("path,label,Path\na,b,c\n", "expected one column path, found 2"),
        ("path,label\n", "no photos listed"),
        ("path,label\na,x\npath,label\n", "line 3: has the titles of the columns"),
        ("path,label\na,b,c\n", "line 2: has 3 fields. Expected 2"),
        ("path,label\na,x\nb\n", "line 3: has 1 fields. Expected 2"),
        ("path,label\n,x\n", "line 2: no path"),
        ("path,label,split\na,x,\nb,y,dev\n", "line 3: split 'dev' is unknown"),
        ('path,label\na,"x\n', "line 2: unexpected end"),
        ('path,label\n"a"b,x\n', "line 2: "),
        ("path,label\n../a,x\nb,y\n", "line 2: '../a' is not a path inside"),
        ("path,label\na,x\nb,x\n", "one class only, 'x'"),
        ('path,label\na,"x\ny"\nb,z\n', "control character"),
        (f"path,label\na,{'x' * 600}\nb,z\n", "has 600 characters"),
        ("path,label\n" + "," * 1_100_000, "line 2: has 1,100,000 characters"),
        ("," * 1_000_000 + "x\n", "expected one column path, found 0"),
        (f"path,label\na,{'x' * 140_000}\n", "line 2: field larger than field limit"),
        ('path,label\na,"' + "x\n" * 70_000, "field larger than field limit"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, body, message):
    with pytest.raises(DataError, match=message):
        listed(tmp_path, body)
