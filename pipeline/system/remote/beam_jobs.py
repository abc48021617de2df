"""Call a function for many items in workers of Apache Beam, without its chatter."""

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.system import config_flags, platform_support
from pipeline.system.errors import DataError

LOCAL = "local"  # no runner of Beam
# Runners that were tried, with their flags that do something here.
_FLAGS = {
    "DirectRunner": ("--direct_num_workers", "--direct_running_mode"),
    "DaskRunner": (
        *("--dask_client_address", "--dask_scheduler_file", "--dask_client_name"),
        *("--dask_connection_timeout", "--dask_connection_limit"),
        *("--dask_npartitions", "--dask_partition_size"),
    ),
}
_OTHERS = ("FlinkRunner", "SparkRunner", "PrismRunner", "PortableRunner")
# Makes the field of a setting.
runner = functools.partial(
    config_flags.setting,
    LOCAL,
    "What does the work: processes of this computer, or a runner of Apache Beam, whose "
    "own flags may follow, such as --dask_client_address=tcp://host:8786.",
    choices=(LOCAL, *_FLAGS, *_OTHERS, "DataflowRunner"),
)


def check_flags(config: Any) -> None:
    """Raise ValueError for `workers` or `beam_flags` that do nothing with `runner`."""
    runner, flags = config.runner, config.beam_flags
    if runner == LOCAL and flags:
        known = config_flags.settings_of(type(config))
        raise ValueError(config_flags.unknown_flag(flags[0], known))
    allowed, is_parallel = _FLAGS.get(runner, ()), "running_mode=multi" in str(flags)
    useless = ["--workers"] * bool(getattr(config, "workers", 0))
    for name in (flag.partition("=")[0] for flag in flags):
        is_anothers = name.startswith(("--direct_", "--dask_"))
        if name not in allowed if allowed else is_anothers:
            names = f" (expected one of {', '.join(allowed)})" * bool(allowed)
            useless.append(name + names)
        elif name == "--direct_num_workers" and not is_parallel:
            useless.append(f"{name} without --direct_running_mode=multi_processing")
    if useless and runner != LOCAL:
        raise ValueError(f"{useless[0]}: does nothing with --runner={runner}")


class BeamJobs:
    """Jobs of a runner of Apache Beam, such as DirectRunner."""

    def __init__(self, runner: str, flags: Sequence[str]) -> None:
        """Import Beam; DataError if it is missing or refuses a flag."""
        # Without a handler, Beam and Dask would log to the terminal.
        logging.getLogger().addHandler(logging.NullHandler())
        try:
            import apache_beam
            from apache_beam.options import pipeline_options
            from apache_beam.runners.dask import dask_runner
            from apache_beam.runners.portability.fn_api_runner import fn_runner
        except ImportError as error:
            raise DataError(
                f"--runner={runner}: Apache Beam is not installed ({error}). Run: "
                "python -m pip install 'apache-beam>=2.77' 'dask[distributed]'"
            ) from error
        # Beam's own DirectRunner tries to download another runner.
        kinds = {
            "DirectRunner": fn_runner.FnApiRunner,
            "DaskRunner": dask_runner.DaskRunner,
        }
        self._name, self._runner = runner, kinds.get(runner, str)() or runner
        if runner == "DaskRunner" and "partition" not in str(flags):
            # By default one worker gets 128 items, and the others none.
            flags = [*flags, "--dask_partition_size=1"]
        self._beam: Any = apache_beam
        try:
            with platform_support.stderr_silenced():
                words = [f"--runner={runner}", *flags]
                self._options = pipeline_options.PipelineOptions(words)
                self._options.get_all_options()  # parses them
        except SystemExit as error:
            raise DataError(f"wrong options of Beam: {' '.join(words)}") from error

    def each(self, what: str, function: Callable[[Any], Any], items: Any) -> None:
        """Call the function for each item; `what` says what it does, as in Convert."""
        beam = self._beam
        try:
            # What workers of this machine write is dropped, too.
            with platform_support.stderr_silenced(), contextlib.ExitStack() as stack:
                pipeline = beam.Pipeline(runner=self._runner, options=self._options)
                _ = (
                    pipeline
                    | f"{what}: list" >> beam.Create(items)
                    | f"{what}: spread" >> beam.Reshuffle()
                    | f"{what}: do" >> beam.Map(function)
                )
                result = pipeline.run()
                if client := getattr(result, "client", None):  # of Dask
                    stack.callback(client.close)  # and a cluster that it has started
                result.wait_until_finish()
        except Exception as error:  # of Beam, of the cluster, or of our own functions
            kind = type(error).__name__
            raise DataError(
                f"--runner={self._name}: the job failed ({kind}: {error}). Its workers "
                "need Graft installed"
            ) from error
