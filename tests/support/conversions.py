"""Conversions as many tests need them: in this process, or as the command."""

from pipeline.convert import conversion, convert_settings
from pipeline.records import manifest
from tests.support import processes


def convert(source, out, **settings):
    config = convert_settings.Config(
        source=str(source), out=str(out), **({"workers": 1} | settings)
    )
    summary = conversion.convert(config)
    assert summary.manifest == manifest.read(out)
    return summary


def words(source, out, *flags):
    return "-m", "pipeline.convert", source, f"--out={out}", "--workers=1", *flags


def command(source, out, *flags):
    return processes.run_command(*words(source, out, *flags))
