"""Predict photos in parts: in one process, in several that share them, or with Beam.

A part is some whole batches, so a photo is in the same batch whichever process predicts
it. The part writes part-00012.predictions.jsonl and part-00012.problems.jsonl, which
appear when they are complete, so any process may be killed. A process that finds all
parts joins them to predictions.jsonl and problems.jsonl.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.predict.predict_settings import Config
from model.runs import run_list
from pipeline.images import isolated_decoder, photo_files
from pipeline.system import command_line, file_system, process_pool
from pipeline.system.errors import DataError
from pipeline.system.remote import beam_jobs

_PART_PHOTOS = 256  # or the next multiple of the batch size
_JOB, _RESULT, _PROBLEMS = "job.json", "predictions.jsonl", "problems.jsonl"
_OTHER = "not_a_photo"  # key in the line of a file that is not a photo
_load_lock = threading.Lock()


class _Part(NamedTuple):
    number: int
    num_photos: int
    photos: bytes  # paths as JSON, compressed by zlib: there may be millions


class _Job(NamedTuple):
    config: Config
    folder: Path
    started_in: Path  # working folder, for relative paths of photos
    facts: str  # content of job.json: all that determines the predictions

    def path(self, part: _Part, name: str) -> Path:
        return self.folder / f"part-{part.number:05}.{name}"

    def check(self, part: _Part) -> None:
        """Raise DataError unless the files of a part have a line for each photo."""
        paths = [self.path(part, name) for name in (_RESULT, _PROBLEMS)]
        lines = [path.read_bytes().count(b"\n") for path in paths if path.is_file()]
        if sum(lines) != part.num_photos:
            raise DataError(f"{paths[0]}: is damaged. Delete it, and start again")

    def missing(self, parts: Sequence[_Part]) -> list[_Part]:
        names = {path.name for path in self.folder.iterdir()}
        if _RESULT in names:
            return []
        return [part for part in parts if self.path(part, _RESULT).name not in names]


def predict(config: Config) -> None:
    """Predict the missing parts of a job, or a share of them; join all if possible."""
    is_local = config.runner == beam_jobs.LOCAL
    beam = None if is_local else beam_jobs.BeamJobs(config.runner, config.beam_flags)
    ignored: collections.Counter[str] = collections.Counter()
    parts, digest = list[_Part](), hashlib.sha256()
    part_size = config.batch_size * math.ceil(_PART_PHOTOS / config.batch_size)
    photos = photo_files.find(config.photos, ignored, config.out)
    for block in process_pool.blocks(photos, part_size):
        text = json.dumps(block).encode()
        digest.update(text)
        parts.append(_Part(len(parts), len(block), zlib.compress(text)))
    if not parts:
        names = ", ".join(config.photos)
        raise DataError(f"{names}: there are no photos. Expected photos or folders.")
    run_dir = str(run_list.read(config.run_dir).directory.absolute())
    config = dataclasses.replace(config, run_dir=run_dir)
    facts = {"photos": digest.hexdigest(), "run": _facts(run_dir)}
    facts |= {n: getattr(config, n) for n in ("batch_size", "top", "unknown_below")}
    folder = Path(config.out).absolute()
    job = _Job(config, folder, Path.cwd(), json.dumps(facts, indent=1))
    with file_system.made(folder):
        _claim(job)
    number, count = map(int, config.shard.split("/"))
    todo = job.missing(parts[number - 1 :: count])
    command_line.log(f"{len(todo):,} of {len(parts):,} parts to predict with {run_dir}")
    write = functools.partial(_write, job)
    if beam and todo:
        beam.each("Predict", write, todo)
    elif todo:
        command_line.log(_load(job)[0].describe())
        total = sum(part.num_photos for part in todo)
        # Two threads, so that one part is decoded while the other is predicted.
        pool = concurrent.futures.ThreadPoolExecutor(2)
        with command_line.progress(total, "photo", "predict") as progress:
            try:
                for num_photos in pool.map(write, todo):
                    progress.update(num_photos)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    _finish(job, parts, ignored)


def _claim(job: _Job) -> None:
    """Write job.json, or raise DataError if another job is in the folder."""
    file_system.prepare_folder(job.folder)
    path = job.folder / _JOB
    names = [p.name for p in job.folder.iterdir() if not p.name.startswith(".")]
    if names and _JOB not in names:
        raise DataError(f"--out={job.folder}: has other files. Expected a new folder")
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write(job.facts)
    before = file_system.regular(path, 1 << 20).read_text(errors="replace")
    if not job.facts.startswith(before):
        raise DataError(
            f"{path}: this folder is for other photos, other settings or another run. "
            "Finish that job with its own settings, or choose another --out"
        )
    if before != job.facts:  # its process is still writing it, or was killed
        with file_system.replacing(path) as partial:
            partial.write_text(job.facts)


def _facts(run_dir: str) -> list[Any]:
    """Return the facts of a run that determine its predictions."""
    run = run_list.read(run_dir)
    has_scores = (run.directory / "strangers.npz").exists()
    return [run.identity, run.model_digest(), run.temperature, has_scores]


@functools.lru_cache(maxsize=1)
def _load(job: _Job) -> tuple[Any, ...]:
    """Return a classifier, its predictor, the function for JSON lines, and decoders."""
    num_workers = command_line.available_cpus()
    if dask := sys.modules.get("distributed"):
        # A worker of Dask uses as many processors as it has threads.
        with contextlib.suppress(ValueError):  # this is no worker
            num_workers = dask.get_worker().state.nthreads
            for kind in ("INTRA", "INTER"):
                os.environ[f"TF_NUM_{kind}OP_THREADS"] = str(num_workers)
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.predict import classifier, output_formats, predicting

    config = job.config
    if _facts(config.run_dir) != json.loads(job.facts)["run"]:
        raise DataError(f"{config.run_dir}: has changed. Start again in another --out")
    known = classifier.load_run(config.run_dir)
    photos = tuple(str(job.started_in / photo) for photo in config.photos)
    predictor = predicting.Predictor(dataclasses.replace(config, photos=photos), known)
    top = min(config.top, len(known.class_names))
    _, as_json = output_formats.writer("jsonl", top=top, num_similar=0)
    decoders = _decoders(num_workers, known.resize_min, known.white_level)
    return known, predictor, as_json, decoders


@functools.lru_cache(maxsize=1)  # a worker of Beam uses them for one job after another
def _decoders(count: int, resize_min: int, white_level: int) -> Any:
    return isolated_decoder.Decoders(
        count, timeout_s=60, resize_min=resize_min, white_level=white_level
    )


def _write(job: _Job, part: _Part) -> int:
    """Write the files of a part; return its number of photos."""
    with _load_lock:  # two threads would load the network twice
        known, predictor, as_json, decoders = _load(job)
    from model.predict import photo_batches

    photos = json.loads(zlib.decompress(part.photos))
    paths = [str(job.started_in / photo) for photo in photos]
    size = job.config.batch_size
    batches = photo_batches.read(paths, known.spec, batch_size=size, decoders=decoders)
    results = {r.photo: r for batch in batches for r in predictor.predict(batch)}
    lines: dict[str, list[str]] = {_PROBLEMS: [], _RESULT: []}
    for photo, path in zip(photos, paths, strict=True):
        if result := results.get(path):
            line = as_json(dataclasses.replace(result, photo=photo))
        else:
            name, problem = command_line.as_utf8(photo), predictor.others[path]
            line = json.dumps({"photo": name, "problem": problem, _OTHER: True}) + "\n"
        lines[_RESULT if result and not result.problem else _PROBLEMS].append(line)
    for name, texts in lines.items():  # the last one marks the part as complete
        with file_system.replacing(job.path(part, name)) as partial:
            partial.write_text("".join(texts), encoding="ascii")
    return part.num_photos


def _finish(job: _Job, parts: Sequence[_Part], ignored: Mapping[str, int]) -> None:
    """Join the parts, as two processes may at once, or say how many are missing."""
    result, problems = job.folder / _RESULT, job.folder / _PROBLEMS
    if missing := job.missing(parts):
        text = f"{job.folder}: {len(missing):,} of {len(parts):,} parts are missing"
        if job.config.runner != beam_jobs.LOCAL:
            raise DataError(f"{text}. All workers need this folder under this path")
        command_line.say(f"{text}. The process that writes the last one joins them")
        return
    if not result.exists():
        for part in parts:
            job.check(part)
        for path in (problems, result):  # the last one marks the job as complete
            with file_system.replacing(path) as partial, partial.open("wb") as file:
                for part in parts:
                    file.write(job.path(part, path.name).read_bytes())
    with problems.open("rb") as file:
        mark = f'"{_OTHER}": true'.encode()
        is_other = collections.Counter(mark in line for line in file)
    others, bad = is_other[True], is_other[False]
    count = sum(part.num_photos for part in parts) - others
    kinds = {**ignored, f"not a photo (in {_PROBLEMS})": others}
    if texts := [f"{number:,} {kind}" for kind, number in kinds.items() if number]:
        command_line.log(f"ignored: {', '.join(texts)}")
    command_line.say(f"{result}: {count - bad:,} predictions")
    if bad:
        raise DataError(f"{problems}: {bad:,} of {count:,} photos could not be read")
