"""Conversions as many tests need them: in this process, or as the command."""

import contextlib
from unittest import mock

from pipeline.convert import conversion, convert_settings
from pipeline.images import record_image
from pipeline.records import manifest
from pipeline.system import config_flags, process_pool
from tests.support import processes


def _map_blocks(function, items, *, block_size=16, **_):
    for block in process_pool.blocks(items, block_size):
        yield from zip(block, function(block), strict=True)


@contextlib.contextmanager
def in_this_process(**settings):
    """Decode here, for a process takes a second to start, unless `workers` are set."""
    if "workers" in settings:
        yield
        return
    with mock.patch.object(process_pool, "map_blocks", _map_blocks):
        yield


class Decoders:
    """Stands for isolated_decoder.Decoders, whose processes take seconds to start."""

    def __init__(self, count, *, timeout_s, **settings):
        self._settings = settings

    def decode(self, data):
        return record_image.encode_for_record(data, **self._settings)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def convert(source, out, **settings):
    paths = {"source": str(source), "out": str(out)}
    config = config_flags.build(convert_settings.Config, paths | settings)
    with in_this_process(**settings):
        summary = conversion.convert(config)
    assert summary.manifest == manifest.read(out)
    return summary


def words(source, out, *flags):
    return "-m", "pipeline.convert", source, f"--out={out}", "--workers=1", *flags


def command(source, out, *flags):
    return processes.run_command(*words(source, out, *flags))
