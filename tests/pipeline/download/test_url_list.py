import csv
import hashlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from pipeline.download import download_settings, url_list
from pipeline.system.errors import DataError
from tests.support import conversions, files, processes
from tests.support.http_server import Answer

HEADER = "image_url,label,_split\n"


def listed(tmp_path, body, names=(), images=0, seed=0):
    (tmp_path / "list.csv").write_text(body)
    (tmp_path / "n").write_text("\n".join(names))
    config = download_settings.Config(
        target="photos",
        urls=str(tmp_path / "list.csv"),
        labels=str(tmp_path / "n") if names else "",
        images=images,
        seed=seed,
    )
    return url_list.read(config)


def table_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def flowers(photos, server, tmp_path):
    """A list of 36 photos on the server."""
    rows = ["image_url,label,_split"]
    for path in sorted(photos.rglob("*.*")):
        name = f"/{path.name}"
        server.answers[name] = Answer(path.read_bytes())
        split = "test" if path.stem[-1] == "0" else "train"
        rows.append(f"{server.url}{name},{path.parent.name},{split}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "list.csv"


def command(*flags, target):
    return processes.run_command("-m", "pipeline.download", *flags, target)


class TestList:
    def test_a_list_of_caffe_is_read(self, tmp_path):
        body = (
            ",image_url,page_url,label,_split\n"
            "5159730964,http://farm2.example/a.jpg,,1,train\n"
            "8530766395,http://farm9.example/b.jpg,,0,test\n"
        )
        photos = listed(tmp_path, body, names=("Detailed", "Pastel"))
        assert [(p.url, p.class_name, p.split) for p in photos] == [
            ("http://farm2.example/a.jpg", "Pastel", "train"),
            ("http://farm9.example/b.jpg", "Detailed", "test"),
        ]
        digest = hashlib.sha1(b"http://farm2.example/a.jpg").hexdigest()
        assert photos[0].path == f"Pastel/{digest}.jpg"

    def test_columns_may_have_other_names(self, tmp_path):
        (photo,) = listed(tmp_path, "label,URL\nx,http://a\n")
        assert (photo.class_name, photo.split) == ("x", "")

    @pytest.mark.parametrize(
        "label",
        [
            *("../../evil", "..", ".", "/etc", "a/b", "a\\b", ".hidden", "~", "nul:"),
            *("é", "\u82b1" * 100),
        ],
    )
    def test_a_label_never_leads_out_of_the_folder(self, tmp_path, label):
        (photo,) = listed(tmp_path, f'image_url,label\nhttp://a/../../x,"{label}"\n')
        folder, name = photo.path.split("/")
        assert folder not in ("", ".", "..")
        assert not folder.startswith(".")
        assert len(folder) < 256
        assert name == f"{hashlib.sha1(b'http://a/../../x').hexdigest()}.jpg"
        assert photo.class_name == label

    def test_repeated_rows_are_one_photo(self, tmp_path):
        body = HEADER + "http://a,0,\nhttp://a,00,\nhttp://a,1,\n"
        assert len(listed(tmp_path, body, names=("x", "y"))) == 2

    def test_a_photo_in_two_splits_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"line 3: .* another split than in line 2"):
            listed(tmp_path, HEADER + "http://u:pw@a,0,test\nhttp://u:pw@a,0,train\n")

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (HEADER, "the list has no photos"),
            ("a,b\n1,2\n", "expected one column image_url or url, found 0"),
            ("url,image_url,label\n1,2,3\n", "found 2"),
            (HEADER + "http://a,,train\n", "line 2: no label"),
            (HEADER + "http://a,x,dev\n", "line 2: split 'dev'"),
        ],
    )
    def test_a_wrong_list_is_refused_with_the_line(self, tmp_path, body, message):
        with pytest.raises(DataError, match=message):
            listed(tmp_path, body)

    def test_a_larger_subset_of_a_seed_includes_the_smaller(self, tmp_path):
        rows = "".join(f"http://a/{number},x,\n" for number in range(200))
        every = listed(tmp_path, HEADER + rows)
        subset = listed(tmp_path, HEADER + rows, images=40, seed=1)
        assert len(subset) == 40
        assert subset == listed(tmp_path, HEADER + rows, images=40, seed=1)
        assert subset != listed(tmp_path, HEADER + rows, images=40, seed=2)
        assert subset == [photo for photo in every if photo in subset]
        larger = listed(tmp_path, HEADER + rows, images=60, seed=1)
        assert all(photo in larger for photo in subset)
        assert listed(tmp_path, HEADER + rows, images=500, seed=1) == every


class TestCommand:
    def test_a_downloaded_list_can_be_converted(self, flowers, server, tmp_path):
        target = tmp_path / "new" / "photos"
        for name in ("/blue000.jpg", "/red000.jpg"):
            server.answers[name] = Answer(b"gone", status=404)
        server.answers["/blue001.jpg"] = Answer(b"<html>" + b"x" * 1000)
        done = command(f"--urls={flowers}", target=target)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"{target}: 33 of 36 photos in 3 classes, 33 new",
            "2 not downloaded: the server answers 404 Not Found",
            "1 not downloaded: a web page, not an image",
            "photos.csv lists the photos, report.csv all reasons",
            f"to convert them: python -m pipeline.convert {target} "
            f"--csv={target}/photos.csv",
        ]
        report = {row["url"]: row for row in table_of(target / "report.csv")}
        assert len(report) == 36
        row = report[f"{server.url}/red000.jpg"]
        assert row["status"] == "failed"
        assert row["reason"] == "the server answers 404 Not Found"
        assert not list(target.rglob(".*"))
        listing = str(target / "photos.csv")
        dataset = conversions.convert(target, tmp_path / "out", csv=listing).manifest
        assert len(dataset.rows) == len(dataset.included()) == 33
        tests = {row.path for row in dataset.included("test")}
        urls = {row["url"] for row in report.values() if row["path"] in tests}
        assert {url.rsplit("0", 1)[1] for url in urls} == {".jpg"}
        assert len(urls) == 4

    def test_a_second_call_downloads_what_failed(self, flowers, server, tmp_path):
        whole = server.answers["/red000.jpg"]
        server.answers["/red000.jpg"] = Answer(status=404)
        target = tmp_path / "got"
        command(f"--urls={flowers}", target=target)
        first = {row["path"] for row in table_of(target / "photos.csv")}
        (target / min(first)).write_bytes(b"")  # as after a full disk
        server.answers["/red000.jpg"] = whole
        server.requests.clear()
        done = command(f"--urls={flowers}", target=target)
        assert "36 of 36 photos in 3 classes, 2 new" in done.stdout
        assert len(server.requests) == 2
        assert len(table_of(target / "photos.csv")) == 36

    def test_a_subset_with_class_names_is_downloaded(self, server, photos, tmp_path):
        body = (photos / "red" / "red000.jpg").read_bytes()
        rows = []
        for number in range(10):
            server.answers[f"/{number}"] = Answer(body)
            rows.append(f"{server.url}/{number},{number % 2},")
        (tmp_path / "list.csv").write_text(HEADER + "\n".join(rows))
        (tmp_path / "names.txt").write_text("Noir\nBokeh\n")
        done = command(
            f"--urls={tmp_path / 'list.csv'}",
            f"--labels={tmp_path / 'names.txt'}",
            *("--images=6", "--seed=3", "--workers=2"),
            target=tmp_path / "got",
        )
        assert done.returncode == 0, done.stderr
        assert "6 of 6 photos" in done.stdout
        assert f"--labels={tmp_path / 'names.txt'}" in done.stdout
        for row in table_of(tmp_path / "got" / "photos.csv"):
            assert row["label"] in ("Noir", "Bokeh")
            assert row["path"].startswith(f"{row['label']}/")

    def test_without_a_network_the_command_fails_in_seconds(self, tmp_path, closed_url):
        port = closed_url.rsplit(":", 1)[1]
        rows = [f"http://127.0.0.{1 + n % 50}:{port}/{n},x," for n in range(5000)]
        (tmp_path / "list.csv").write_text(HEADER + "\n".join(rows))
        start = time.monotonic()
        done = command(f"--urls={tmp_path / 'list.csv'}", target=tmp_path / "got")
        assert time.monotonic() - start < 10
        assert (done.returncode, done.stdout) == (2, "")
        last = done.stderr.splitlines()[-1]
        assert "none of 5,000 photos could be downloaded" in last
        assert "cannot be reached" in last
        assert "Check the network" in last
        assert len(table_of(tmp_path / "got" / "report.csv")) == 5000

    def test_a_stopped_download_is_continued_by_the_next(
        self, flowers, server, tmp_path
    ):
        for answer in list(server.answers.values())[10:]:
            answer.trickle_s = 0.5
        target = tmp_path / "got"
        words = ["-m", "pipeline.download", f"--urls={flowers}", "--workers=4", target]
        with subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=files.ROOT,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while len(list(target.rglob("*.jpg"))) < 8:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            start = time.monotonic()
            _, stderr = process.communicate(timeout=20)
            assert time.monotonic() - start < 3
        assert process.returncode == 128 + signal.SIGINT, stderr
        assert "stopped by SIGINT" in stderr
        there = {row["path"] for row in table_of(target / "photos.csv")}
        assert 8 <= len(there) < 36
        states = {row["status"] for row in table_of(target / "report.csv")}
        # One that was put in place in the last moment is there.
        assert states - {"there"} == {"fetched", "not tried"}
        for answer in server.answers.values():
            answer.trickle_s = 0
        done = command(f"--urls={flowers}", target=target)
        assert "36 of 36 photos" in done.stdout, done.stderr
        assert there < {row["path"] for row in table_of(target / "photos.csv")}

    def test_a_listing_of_others_is_left_alone(self, flowers, tmp_path):
        shutil.copy(flowers, tmp_path / "photos.csv")
        before = (tmp_path / "photos.csv").read_bytes()
        done = command(f"--urls={tmp_path / 'photos.csv'}", target=tmp_path)
        assert done.returncode == 2
        assert "was not written by this command" in done.stderr
        assert (tmp_path / "photos.csv").read_bytes() == before
