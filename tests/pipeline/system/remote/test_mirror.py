"""Copies of what is in buckets, tested with a server of S3's protocol."""

import pytest

from pipeline.system import command_line, file_system, platform_support
from pipeline.system.errors import DataError
from pipeline.system.remote import bucket, mirror
from tests.support import files, stores


@pytest.fixture
def place(new_bucket):
    """Address of a folder with two files."""
    address = new_bucket("s3") + "/runs/a b"
    write(address, "x.txt", b"old")
    write(address, "in/y.txt", b"other")
    return address


@pytest.fixture
def fetched(place, monkeypatch):
    """Names of the files that are copied from the bucket, as they come."""
    system, names = bucket._file_system(place), []
    get_file = system.get_file

    def get(source, target):
        names.append(source.removeprefix(place))
        get_file(source, target)

    monkeypatch.setattr(system, "get_file", get)
    return names


def write(address, name, content):
    stores.store("s3").pipe_file(f"{address}/{name}", content)


def use(address, **settings):
    """Copy a folder as a command does, and end the command; return the copy."""
    with mirror.copied_back():
        return mirror.local(address, **settings)


def test_a_path_of_this_machine_is_itself(tmp_path):
    assert mirror.local(str(tmp_path)) == tmp_path


def test_a_folder_is_copied_under_its_name_and_messages_name_the_bucket(place):
    copy = use(place)
    assert files.folder_content(copy) == {"x.txt": b"old", "in/y.txt": b"other"}
    assert copy.name == "a b"
    assert copy.is_relative_to(file_system.cache_folder())
    assert command_line.shown(f"{copy}/x.txt: bad") == f"{place}/x.txt: bad"


def test_only_what_has_changed_is_copied_again(place, fetched):
    copy = use(place)
    assert sorted(fetched) == ["/in/y.txt", "/x.txt"]
    fetched.clear()
    assert use(place) == copy
    assert fetched == []
    write(place, "x.txt", b"new")
    write(place, "z.txt", b"more")
    stores.store("s3").rm_file(f"{place}/in/y.txt")
    use(place)
    assert sorted(fetched) == ["/x.txt", "/z.txt"]
    assert files.folder_content(copy) == {"x.txt": b"new", "z.txt": b"more"}
    assert not (copy / "in").exists()


def test_what_differs_in_the_copy_counts_as_damage(place, fetched):
    copy = use(place)
    fetched.clear()
    (copy / "x.txt").write_bytes(b"OLD")
    (copy / "foreign").touch()
    use(place)
    assert fetched == ["/x.txt"]
    assert files.folder_content(copy) == {"x.txt": b"old", "in/y.txt": b"other"}


def test_what_a_command_changes_is_copied_back(place, fetched):
    with mirror.copied_back():
        copy = mirror.local(place)
        assert mirror.local(f"{place}/in") == copy / "in"
        (copy / "x.txt").write_bytes(b"new")
        (copy / "more").mkdir()
        (copy / "more" / "z.txt").write_bytes(b"z")
        (copy / ".x.partial").write_bytes(b"half")
        (copy / "in" / "y.txt").unlink()
    assert stores.content(place) == {"x.txt": b"new", "more/z.txt": b"z"}
    fetched.clear()
    use(place)
    assert fetched == []


def test_results_are_copied_back_after_an_error_too(place):
    with pytest.raises(KeyError), mirror.copied_back():
        (mirror.local(place) / "report").write_bytes(b"bad")
        raise KeyError
    assert stores.content(place)["report"] == b"bad"


def test_a_file_is_copied_alone(place):
    write(place, "x.txt.bak", b"no")
    copy = use(f"{place}/x.txt")
    assert copy.read_bytes() == b"old"
    assert [path.name for path in copy.parent.iterdir() if path.name[0] != "."] == [
        "x.txt"
    ]


def test_the_files_of_a_checkpoint_are_found_by_the_name_they_share(place):
    for ending in (".index", ".data-00000-of-00001", ".meta"):
        write(place, "model.ckpt" + ending, ending.encode())
    copy = use(f"{place}/model.ckpt")
    assert copy.with_name("model.ckpt.index").read_bytes() == b".index"
    assert copy.with_name("model.ckpt.data-00000-of-00001").exists()
    assert not copy.with_name("model.ckpt.meta").exists()


def test_what_is_nowhere_has_a_copy_that_is_nowhere_until_it_is_written(place):
    with mirror.copied_back():
        copy = mirror.local(f"{place}/new/b")
        assert not copy.exists()
        copy.mkdir()
        (copy / "z").write_bytes(b"z")
    assert stores.content(f"{place}/new") == {"b/z": b"z"}


def test_a_bucket_that_is_nowhere_is_named_at_once(new_bucket):
    address = new_bucket("s3") + "-not/a"
    with pytest.raises(FileNotFoundError) as caught:
        mirror.local(address)
    assert caught.value.filename == address


def test_results_do_not_replace_what_has_changed_in_the_bucket_meanwhile(place):
    message = f"{place}: results were not copied there: it has changed while this"
    with pytest.raises(DataError, match=message) as caught, mirror.copied_back():
        copy = mirror.local(place)
        (copy / "x.txt").write_bytes(b"mine")
        write(place, "x.txt", b"theirs")
    assert stores.content(place)["x.txt"] == b"theirs"
    assert str(copy) in command_line.shown(str(caught.value))


def test_what_changes_while_it_is_copied_is_refused(place, monkeypatch):
    system = bucket._file_system(place)
    get_file = system.get_file

    def get(source, target):
        get_file(source, target)
        write(place, "x.txt", b"new")

    with monkeypatch.context() as patch:
        patch.setattr(system, "get_file", get)
        with pytest.raises(
            DataError, match=f"{place}: has changed while it was copied"
        ):
            use(place)
    assert (use(place) / "x.txt").read_bytes() == b"new"


def test_a_copy_in_use_may_be_read_but_not_changed(place):
    copy = use(place)
    lock = copy.with_name(f".{copy.name}.lock")
    with platform_support.locked(
        lock, on_wait=None, shared=True
    ):  # as another command has
        use(place)
        write(place, "x.txt", b"new")
        with pytest.raises(DataError, match="while another command works in"):
            use(place)
    assert (use(place) / "x.txt").read_bytes() == b"new"


def test_without_permission_nothing_is_kept(place, monkeypatch):
    def deny(*_, **__):
        raise PermissionError("Access Denied")

    copy = use(place)
    monkeypatch.setattr(bucket._file_system(place), "find", deny)
    with pytest.raises(PermissionError) as caught:
        use(place)
    assert caught.value.filename == place
    monkeypatch.undo()
    assert files.folder_content(copy) == {"x.txt": b"old", "in/y.txt": b"other"}


def test_a_name_that_leads_out_of_the_copy_is_refused(place):
    # Clients normalise such names; a server does not.
    listing = {f"{place[5:]}/../up": {"name": f"{place[5:]}/../up", "type": "file"}}
    system = bucket._file_system(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, "find", lambda *_, **__: listing)
        with pytest.raises(DataError, match=r"/\.\./up: is no name of a file"):
            use(place)


class TestKept:
    """Runs whose training was killed before they were copied to the bucket."""

    @pytest.fixture
    def copy(self, place):
        """Folder of the copy of PLACE/run."""
        folder = use(f"{place}/run")
        folder.mkdir()
        (folder / "config.json").write_bytes(b"{}")
        (folder / ".waiting").write_text("999999999")
        file_system.copies.clear()  # as in a new process
        return folder

    def test_the_next_command_continues_and_copies_them(self, place, copy, capsys):
        with mirror.copied_back():
            assert (mirror.local(f"{place}/run") / "config.json").exists()
            (copy / "model.keras").write_bytes(b"m")
        assert f"has left in {copy}" in capsys.readouterr().err
        content = {"config.json": b"{}", "model.keras": b"m"}
        assert stores.content(f"{place}/run") == content
        assert files.folder_content(use(f"{place}/run")) == content

    def test_what_is_a_run_in_the_bucket_by_now_counts(self, place, copy):
        write(f"{place}/run", "config.json", b"other")
        assert (use(f"{place}/run") / "config.json").read_bytes() == b"other"

    def test_what_still_trains_is_left_to_that_process(self, place, copy):
        lock = copy.with_name(".run.lock")
        with platform_support.locked(lock, on_wait=None, shared=True):
            use(f"{place}/run")
        assert stores.content(f"{place}/run") == {}

    def test_results_are_left_to_the_process_that_keeps_them(self, place):
        with mirror.copied_back():
            folder = mirror.local(f"{place}/new")
            folder.mkdir()
            (folder / "config.json").write_bytes(b"{}")
            mirror.keep(folder / "scratch")
            assert (folder / ".waiting").exists()
        assert stores.content(f"{place}/new") == {"config.json": b"{}"}
        assert not (folder / ".waiting").exists()
        with mirror.copied_back():
            (mirror.local(f"{place}/new") / ".waiting").write_text("999999999")
            (folder / "metrics.jsonl").touch()
        assert stores.content(f"{place}/new") == {"config.json": b"{}"}


class TestLocalized:
    def test_addresses_become_paths_of_copies(self, place):
        cache = file_system.cache_folder() / "remote"
        folder = cache / file_system.file_name(place)
        with mirror.copied_back():
            lists = f"train={place}/x.txt,test={place}/in/y.txt,labels.txt"
            values = {
                "lists": lists,
                "photos": (f"{place}/x.txt", "b.jpg"),
                "source": place,
                "epochs": 3,
                "urls": "https://host/a",
            }
            assert mirror.localized(values, ["source"]) == {
                "lists": f"train={folder}/x.txt,test={folder}%2Fin/y.txt,labels.txt",
                "photos": (f"{folder}/x.txt", "b.jpg"),
                "source": place,
                "epochs": 3,
                "urls": "https://host/a",
            }

    def test_the_best_run_is_one_of_the_folder(self, place):
        with mirror.copied_back():
            assert mirror.local(f"{place}/best") == mirror.local(place) / "best"

    def test_the_path_of_a_copy_is_a_place_again(self, place):
        copy = use(place)
        with mirror.copied_back():
            assert mirror.local(str(copy)) == copy
            (copy / "x.txt").write_bytes(b"new")
        assert stores.content(place)["x.txt"] == b"new"

    def test_copies_of_an_outer_function_stay_open(self, place):
        with mirror.copied_back():
            copy = mirror.local(place)
            with mirror.copied_back():
                mirror.local(f"{place}/x.txt").write_bytes(b"1")
            (copy / "x.txt").write_bytes(b"2")
        assert stores.content(place)["x.txt"] == b"2"
