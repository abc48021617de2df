"""The work of a conversion as Apache Beam pipelines: on a cluster, or on this machine.

    pip install '.[beam]'
    python -m pipeline.convert gs://bucket/flowers --out=gs://bucket/records \
        --runner=DataflowRunner --project=P --region=R --temp_location=gs://bucket/tmp

Each element is a block of files. It is decoded as at home, by processes that may crash,
into a folder of the worker's own; what comes of it is then put into the staging folder,
in files named after the block. So the results do not depend on who did what, nor on
what was done twice.
"""

import dataclasses
import functools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.images import decode_files, local_runner
from pipeline.records import file_table
from pipeline.system.errors import DataError

# Of runners that Beam does not know by their short names.
_FULL_NAMES = {"DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner"}


class Beam:
    """A Runner by Apache Beam."""

    block_files = 512

    def __init__(self, name: str, options: Sequence[str]) -> None:
        """Takes a runner of Beam by its name.

        Args:
            name: name of the runner, such as DirectRunner.
            options: flags of Beam, as "--direct_num_workers=2".

        Raises:
            DataError: Beam is not installed, or refuses the options.
        """
        try:
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise DataError(
                f"--runner={name}: Apache Beam is not installed ({error}); "
                "python -m pip install 'apache-beam>=2.77' 'dask[distributed]'"
            ) from error
        self._beam: Any = apache_beam
        self._name = name
        try:
            full_name = _FULL_NAMES.get(name, name)
            self._options = PipelineOptions([f"--runner={full_name}", *options])
        except SystemExit as error:  # argparse has said why
            raise DataError(f"--runner={name}: wrong options of Beam") from error

    def convert(
        self,
        how: decode_files.How,
        blocks: Iterable[Sequence[decode_files.Task]],
        num_files: int,
    ) -> Iterator[tuple[int, list[file_table.Segment]]]:
        """As runner.Runner.convert."""
        numbered = list(enumerate(blocks))
        self._each("Convert", functools.partial(_convert, how), numbered)
        for number, block in numbered:
            with (how.partial / f"{number}.found").open("rb") as file:
                found = np.load(file, allow_pickle=False)
            name = f"{number}.lines"
            size = (how.partial / name).stat().st_size
            yield (
                len(block),
                [file_table.Segment(name=name, start=0, size=size, found=found)],
            )

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """As runner.Runner.call."""
        if functions:
            self._each("Join", _call, list(functions))

    def _each(self, what: str, function: Callable[[Any], Any], items: Any) -> None:
        beam = self._beam
        try:
            with beam.Pipeline(options=self._options) as pipeline:
                _ = (
                    pipeline
                    | f"{what}: list" >> beam.Create(items)
                    | f"{what}: spread" >> beam.Reshuffle()
                    | f"{what}: do" >> beam.Map(function)
                )
        except Exception as error:  # of Beam, of the cluster, or of our own functions
            kind = type(error).__name__
            raise DataError(
                f"--runner={self._name}: the job failed ({kind}: {error}); its workers "
                "need Graft installed"
            ) from error


def _call(function: Callable[[], Any]) -> None:
    function()


def _convert(
    how: decode_files.How, numbered: tuple[int, Sequence[decode_files.Task]]
) -> None:
    """Decodes a block, and puts what came of it into the staging folder."""
    number, block = numbered
    # Dask's workers are daemons, which must have no children; ours end with them.
    multiprocessing.current_process().daemon = False
    with tempfile.TemporaryDirectory() as scratch:
        own = dataclasses.replace(how, partial=Path(scratch))
        local = local_runner.Local(num_workers=1)
        small = (
            block[start : start + local.block_files]
            for start in range(0, len(block), local.block_files)
        )
        segments = [
            segment
            for _, some in local.convert(own, small, len(block))
            for segment in some
        ]
        found = np.concatenate([segment.found for segment in segments])
        with decode_files.part_path(how.partial, number).open("wb") as out:
            for entry in found:
                if entry["file"] > file_table.NO_RECORD:
                    start = out.tell()
                    out.write(_record(own.partial, entry))
                    entry["file"], entry["offset"] = number, start
        with (how.partial / f"{number}.lines").open("wb") as out:
            for segment in segments:
                with (own.partial / segment.name).open("rb") as lines:
                    lines.seek(segment.start)
                    out.write(lines.read(segment.size))
        with (how.partial / f"{number}.found").open("wb") as out:
            np.save(out, found, allow_pickle=False)


def _record(partial: Path, entry: np.void) -> bytes:
    with decode_files.part_path(partial, int(entry["file"])).open("rb") as part:
        part.seek(int(entry["offset"]))
        return part.read(int(entry["length"]))
