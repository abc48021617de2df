"""Kill Dask workers while they predict, and measure how fast they predict.

    python benchmarks/predict_with_dask.py [FOLDER] [--run_dir=RUN] [--kills=5]

A cluster of four processes with one thread each, on this machine. Each of five jobs
loses a random worker at a random moment; its results, in parts of 64 photos, are
compared with those of one process. Then both predict all photos eight times, without
the start of processes and the loading of the network. CPU time counts, too: on a busy
machine four processes get more of it than one.
"""

import contextlib
import json
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import measure
import psutil

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
from dask import distributed

from model.predict import (
    classifier,
    output_formats,
    predict_parts,
    predict_settings,
    predicting,
)
from pipeline.system.errors import DataError
from pipeline.system.remote import beam_jobs

WORKERS, TIMES = 4, 8
os.environ["PYTHONPATH"] = str(measure.ROOT)


def main() -> None:
    """Print the tables."""
    parser = measure.argument_parser(__doc__, rounds=1)
    parser.add_argument("--run_dir", default="runs/latest", help="run to predict with")
    parser.add_argument("--kills", type=int, default=5, help="jobs that lose a worker")
    options = parser.parse_args()
    photos, run = (str(options.folder),), classifier.load_run(options.run_dir)
    config = predict_settings.Config(photos=photos, run_dir=options.run_dir)
    _, as_json = output_formats.writer("jsonl", top=len(run.class_names), num_similar=0)
    found = predicting.predict(config, run)
    expected = [json.loads(as_json(p)) for p in found if p.classes]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kinds = {"n_workers": WORKERS, "threads_per_worker": 1}
        cluster = stack.enter_context(
            distributed.LocalCluster(**kinds, dashboard_address=":0")
        )
        rows = []
        for number in range(options.kills):
            folder, length_s = scratch / f"killed-{number}", len(expected) / 30
            after_s = random.uniform(0, length_s)
            victim = threading.Timer(after_s, kill_one, [cluster])
            with mock.patch.object(predict_parts, "_PART_PHOTOS", 64):
                predict_with(cluster, photos, options.run_dir, folder, victim)
            victim.cancel()
            rows.append([str(number + 1), f"{after_s:.1f}", *compare(folder, expected)])
        measure.print_table(
            f"{options.kills} jobs of {len(expected):,} photos that each lost a worker",
            [["job", "killed after s", "same bytes", "largest difference"], *rows],
        )
        rows = []
        for number in range(options.rounds):
            alone = one_process(config, run)
            folder = scratch / f"measured-{number}"
            together = predict_with(cluster, photos * TIMES, options.run_dir, folder)
            names = ("one process", f"Dask, {WORKERS} processes")
            for name, (rate, per_cpu_s) in zip(names, (alone, together), strict=True):
                rows.append([name, f"{rate:.1f}", f"{per_cpu_s:.1f}"])
            ratios = (b / a for a, b in zip(alone, together, strict=True))
            rows.append(["ratio", *(f"{ratio:.2f}" for ratio in ratios)])
        head = ["", "photos/s", "photos per CPU second"]
        measure.print_table(f"{TIMES * len(expected):,} photos", [head, *rows])


def kill_one(cluster: distributed.LocalCluster) -> None:
    """Kill a random worker process."""
    nanny = random.choice([*cluster.workers.values()])
    if nanny.pid:
        os.kill(nanny.pid, signal.SIGKILL)


def predict_with(
    cluster: distributed.LocalCluster,
    photos: tuple[str, ...],
    run_dir: str,
    out: Path,
    killer: threading.Timer | None = None,
) -> tuple[float, float]:
    """Predict photos; return photos per second and per second of CPU time."""
    flags = (f"--dask_client_address={cluster.scheduler_address}",)
    names = {"runner": "DaskRunner", "beam_flags": flags, "out": str(out)}
    config = predict_settings.Config(photos=photos, run_dir=run_dir, **names)
    figures, before = [], beam_jobs.BeamJobs.each

    def measured(self: Any, what: str, function: Any, items: Any) -> None:
        job = function.args[0]
        with distributed.Client(cluster) as client:
            client.wait_for_workers(WORKERS)
            workers = client.scheduler_info(n_workers=-1)["workers"]
            loads = [
                client.submit(lambda job: bool(predict_parts._load(job)), job, **where)
                for where in ({"workers": [w], "pure": False} for w in workers)
            ]
            client.gather(loads)
        processes = [psutil.Process(n.pid) for n in cluster.workers.values()]
        start, start_cpu = time.perf_counter(), cpu_s(processes)
        if killer:
            killer.start()
        before(self, what, function, items)
        seconds, count = time.perf_counter() - start, sum(i.num_photos for i in items)
        alive = [process for process in processes if process.is_running()]
        figures.extend((count / seconds, count / (cpu_s(alive) - start_cpu)))

    with (
        mock.patch.object(beam_jobs.BeamJobs, "each", measured),
        contextlib.suppress(DataError),  # photos that cannot be read
    ):
        predict_parts.predict(config)
    return figures[0], figures[1]


def one_process(
    config: predict_settings.Config, run: classifier.Classifier
) -> tuple[float, float]:
    """Predict photos; return photos per second and per second of CPU time."""
    config = predict_settings.Config(
        photos=config.photos * TIMES, run_dir=config.run_dir
    )
    own, found = [psutil.Process()], predicting.predict(config, run)
    next(found)  # of the first batch
    start, start_cpu, count = time.perf_counter(), cpu_s(own), 0
    for _ in found:
        count += 1
    seconds = time.perf_counter() - start  # decoders have ended: they count, too
    return count / seconds, count / (cpu_s(own) - start_cpu)


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the CPU time of processes and their children, also of those that ended."""
    return sum(
        sum(member.cpu_times()[:4])
        for process in processes
        for member in (process, *process.children(recursive=True))
    )


def compare(folder: Path, expected: list[dict[str, Any]]) -> tuple[str, str]:
    """Return whether predictions are the same, and their largest difference."""
    text = (folder / "predictions.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    for name in ("photo", "answer"):
        if [p[name] for p in found] != [p[name] for p in expected]:
            return "no", f"another {name}"
    differences = [
        abs(a["probability"] - b["probability"])
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one["classes"], other["classes"], strict=True)
    ]
    return ("yes" if found == expected else "no"), f"{max(differences):.1e}"


if __name__ == "__main__":
    main()
