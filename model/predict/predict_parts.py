"""Predict photos in parts: here, in processes that share the work, or by Apache Beam.

A part has whole batches of the list of photos, so a batch holds the same photos whoever
predicts it. part-00012.predictions.jsonl and part-00012.problems.jsonl are what a part
adds to predictions.jsonl and problems.jsonl. They get these names when they are
complete, so any process may be killed. The one that finds all parts joins them.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
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
_OTHER = "not_a_photo"  # key of a file in a folder that is no photo
_lock = threading.Lock()


class _Part(NamedTuple):
    number: int
    num_photos: int
    photos: bytes  # their paths as JSON, compressed by zlib


class _Job(NamedTuple):
    config: Config
    folder: Path
    started_in: Path  # where relative paths of photos start
    facts: str  # content of job.json, what predictions depend on

    def path(self, part: _Part, name: str) -> Path:
        return self.folder / f"part-{part.number:05}.{name}"

    def missing(self, parts: Sequence[_Part]) -> list[_Part]:
        names = {path.name for path in self.folder.iterdir()}
        parts = [] if _RESULT in names else parts
        return [part for part in parts if self.path(part, _RESULT).name not in names]


def predict(config: Config) -> None:
    """Predict the missing parts of a job, or a share of them; join all if possible."""
    is_local = config.runner == beam_jobs.LOCAL
    beam = None if is_local else beam_jobs.BeamJobs(config.runner, config.beam_flags)
    ignored: collections.Counter[str] = collections.Counter()
    parts, digest = list[_Part](), hashlib.sha256()
    size = config.batch_size * -(-_PART_PHOTOS // config.batch_size)
    photos = photo_files.find(config.photos, ignored, config.out)
    for block in process_pool.blocks(photos, size):
        text = json.dumps(block).encode()
        digest.update(text)
        parts.append(_Part(len(parts), len(block), zlib.compress(text)))
    if not parts:
        raise DataError(f"{config.photos[0]}: there are no photos. Expected photos")
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
    command_line.log(f"{len(todo):,} of {len(parts):,} parts to predict by {run_dir}")
    write = functools.partial(_write, job)
    if beam and todo:
        beam.each("Predict", write, todo)
    elif todo:
        command_line.log(_load(job)[0].describe())
        total = sum(part.num_photos for part in todo)
        pool = concurrent.futures.ThreadPoolExecutor(2)  # one decodes, one computes
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
    if not job.facts.startswith(before):  # another process may be about to write it
        raise DataError(
            f"{path}: this folder is for other photos, settings or another run. "
            "Finish that job as it began, or choose another --out"
        )


def _facts(run_dir: str) -> list[Any]:
    """Return what of a run determines predictions."""
    run = run_list.read(run_dir)
    has_scores = (run.directory / "strangers.npz").exists()
    return [run.identity, run.model_digest(), run.temperature, has_scores]


@functools.lru_cache(maxsize=1)
def _load(job: _Job) -> tuple[Any, ...]:
    """Return the classifier, and what predicts, formats and decodes."""
    num_workers = command_line.available_cpus()
    if dask := sys.modules.get("distributed"):
        with contextlib.suppress(ValueError):  # not a worker of Dask
            num_workers = dask.get_worker().state.nthreads
            for kind in ("INTRA", "INTER"):
                os.environ[f"TF_NUM_{kind}OP_THREADS"] = str(num_workers)
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.predict import classifier, output_formats, predicting

    config = job.config
    if _facts(config.run_dir) != json.loads(job.facts)["run"]:
        raise DataError(f"{config.run_dir}: is not the run with which the job began")
    known = classifier.load_run(config.run_dir)
    photos = tuple(str(job.started_in / photo) for photo in config.photos)
    predictor = predicting.Predictor(dataclasses.replace(config, photos=photos), known)
    top = min(config.top, len(known.class_names))
    _, as_json = output_formats.writer("jsonl", top=top, num_similar=0)
    decoders = _decoders(num_workers, known.resize_min, known.white_level)
    return known, predictor, as_json, decoders


@functools.lru_cache(maxsize=1)  # also from job to job
def _decoders(count: int, resize_min: int, white_level: int) -> Any:
    return isolated_decoder.Decoders(
        count, timeout_s=60, resize_min=resize_min, white_level=white_level
    )


def _write(job: _Job, part: _Part) -> int:
    """Write the files of a part; return its number of photos."""
    with _lock:  # the network is loaded once
        known, predictor, as_json, decoders = _load(job)
    from model.predict import photo_batches

    photos = json.loads(zlib.decompress(part.photos))
    paths = [str(job.started_in / photo) for photo in photos]
    batches = photo_batches.read(
        *(paths, known.spec),
        batch_size=job.config.batch_size,
        decoders=decoders,
    )
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
    """Join the parts, which two processes may do at once, or say how many miss."""
    result, problems = job.folder / _RESULT, job.folder / _PROBLEMS
    if missing := job.missing(parts):
        text = f"{job.folder}: {len(missing):,} of {len(parts):,} parts are missing"
        if job.config.runner != beam_jobs.LOCAL:
            raise DataError(f"{text}. All workers need this folder, under this path")
        command_line.say(f"{text}. The process that writes the last one joins them")
        return
    for path in (problems, result) if not result.exists() else ():
        with file_system.replacing(path) as partial, partial.open("wb") as file:
            for part in parts:
                with job.path(part, path.name).open("rb") as lines:
                    shutil.copyfileobj(lines, file)
    with problems.open("rb") as file:
        marks = collections.Counter(
            f'"{_OTHER}": true'.encode() in line for line in file
        )
    others, bad = marks[True], marks[False]
    count = sum(part.num_photos for part in parts) - others
    kinds = {**ignored, f"not a photo (in {_PROBLEMS})": others}
    if texts := [f"{number:,} {kind}" for kind, number in kinds.items() if number]:
        command_line.log(f"ignored: {', '.join(texts)}")
    command_line.say(f"{result}: {count - bad:,} predictions")
    if bad:
        raise DataError(f"{problems}: {bad:,} of {count:,} photos could not be read")
