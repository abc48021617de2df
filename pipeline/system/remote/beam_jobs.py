"""Call a function for many items in workers of Apache Beam, without Beam's messages."""

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.system import config_flags, platform_support
from pipeline.system.errors import DataError

LOCAL = "local"  # processes of this machine, without Beam
# {runner that was tried: its flags that have an effect here}.
_FLAGS = {
    "DirectRunner": ("--direct_num_workers", "--direct_running_mode"),
    "DaskRunner": (
        "--dask_client_address",
        "--dask_scheduler_file",
        "--dask_client_name",
        "--dask_connection_timeout",
        "--dask_connection_limit",
        "--dask_npartitions",
        "--dask_partition_size",
    ),
}
_UNTRIED = ("FlinkRunner", "SparkRunner", "PrismRunner", "PortableRunner")
# Makes the field `runner` of a command's settings.
runner = functools.partial(
    config_flags.setting,
    LOCAL,
    "What does the work: processes of this computer, or a runner of Apache Beam, whose "
    "own flags may follow, such as --dask_client_address=tcp://host:8786.",
    choices=(LOCAL, *_FLAGS, *_UNTRIED, "DataflowRunner"),
)


def check_flags(config: Any) -> None:
    """Raise ValueError for `workers` or `beam_flags` without effect on the runner."""
    flags = config.beam_flags
    if config.runner == LOCAL:
        if flags:
            known = config_flags.settings_of(type(config))
            raise ValueError(config_flags.unknown_flag(flags[0], known))
        return
    no_effect = f"has no effect with --runner={config.runner}"
    if getattr(config, "workers", 0):
        raise ValueError(f"--workers: {no_effect}. Leave it out")
    allowed, names = _FLAGS.get(config.runner), [f.partition("=")[0] for f in flags]
    for name in names:
        if allowed and name not in allowed:
            one = f"one of {', '.join(allowed)}"
            raise ValueError(f"{name}: {no_effect}. Expected {one}")
        if not allowed and name.startswith(("--direct_", "--dask_")):
            raise ValueError(f"{name}: {no_effect}. Leave it out")
    is_parallel = any("running_mode=multi" in flag for flag in flags)
    if "--direct_num_workers" in names and not is_parallel:
        mode = "--direct_running_mode=multi_processing"
        raise ValueError(f"--direct_num_workers: {no_effect} alone. Add {mode}")


class BeamJobs:
    """Jobs of a runner of Apache Beam, such as DirectRunner."""

    def __init__(self, runner: str, flags: Sequence[str]) -> None:
        """Import Beam, or raise DataError if it is missing or refuses a flag."""
        # A root logger without a handler prints what Beam and Dask log.
        logging.getLogger().addHandler(logging.NullHandler())
        try:
            import apache_beam
            from apache_beam.options import pipeline_options
            from apache_beam.runners.dask.dask_runner import DaskRunner
            from apache_beam.runners.portability.fn_api_runner import fn_runner
        except ImportError as error:
            raise DataError(
                f"--runner={runner}: Apache Beam is not installed ({error}). Run: "
                "python -m pip install 'apache-beam>=2.77' 'dask[distributed]'"
            ) from error
        # The name DirectRunner means a runner of Beam that tries to download another.
        runners = {"DirectRunner": fn_runner.FnApiRunner, "DaskRunner": DaskRunner}
        self._name = runner
        self._runner = runners[runner]() if runner in runners else runner
        if runner == "DaskRunner" and "partition" not in str(flags):
            # By default one worker gets the first 128 items and the others none.
            flags = [*flags, "--dask_partition_size=1"]
        self._beam: Any = apache_beam
        try:
            with platform_support.stderr_silenced():
                words = [f"--runner={runner}", *flags]
                self._options = pipeline_options.PipelineOptions(words)
                self._options.get_all_options()  # parses them
        except SystemExit as error:
            reason = error.__context__  # an argparse.ArgumentError
            raise DataError(f"{' '.join(words)}: Beam says: {reason}") from error

    def each(self, what: str, function: Callable[[Any], Any], items: Any) -> None:
        """Call the function for each item; `what` is its name in logs, as "Convert"."""
        beam = self._beam
        try:
            # Workers on this machine have the same standard error.
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
                    stack.callback(client.close)  # with a cluster that it has started
                result.wait_until_finish()
        except Exception as error:  # of Beam, of the cluster, or of our own functions
            kind = type(error).__name__
            raise DataError(
                f"--runner={self._name}: the job failed ({kind}: {error}). Check that "
                "its workers have Graft installed"
            ) from error
