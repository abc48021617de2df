"""Conversions killed at random moments and run again: the same bytes as undisturbed?

    python benchmarks/killed_conversions.py FOLDER [--kills=30] [--seed=0]

Each time a conversion into an empty folder, and then one of a source that has grown, is
killed with all its processes (SIGKILL) somewhere in the time that it takes, and started
again. What must come out are the bytes of conversions that nobody disturbed.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure


def convert(source: Path, out: Path, *, kill_after_s: float = 0) -> float:
    """Runs the command, in seconds; killed or else without fault."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.convert", str(source), f"--out={out}"],
        cwd=measure.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if kill_after_s:
        time.sleep(kill_after_s)
        os.killpg(process.pid, signal.SIGKILL)
    _, stderr = process.communicate()
    if not kill_after_s and process.returncode:
        raise SystemExit(stderr.decode())
    return time.perf_counter() - start


def digest(folder: Path) -> str:
    """Of names and contents of all files."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(folder)}\n".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def main() -> None:
    """Prints how many came out the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chosen = random.Random(args.seed)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        half, whole = Path(scratch, "half"), args.folder
        for path in sorted(p for p in whole.rglob("*") if p.is_file())[::2]:
            target = half / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        base = Path(scratch, "base")
        convert(half, base)
        grown = Path(scratch, "grown")
        shutil.copytree(base, grown)
        fresh = Path(scratch, "fresh")
        seconds = {"fresh": convert(whole, fresh), "grown": convert(whole, grown)}
        expected = {"fresh": digest(fresh), "grown": digest(grown)}
        for kind in ("fresh", "grown"):
            same = whole_at_once = 0
            for number in range(args.kills):
                out = Path(scratch, f"{kind}-{number}")
                if kind == "grown":
                    shutil.copytree(base, out)
                convert(whole, out, kill_after_s=chosen.uniform(0.01, seconds[kind]))
                whole_at_once += digest(out) == expected[kind]
                convert(whole, out)
                same += digest(out) == expected[kind]
                shutil.rmtree(out)
            figures = (args.kills, f"{seconds[kind]:.1f}", whole_at_once, same)
            rows.append([kind, *map(str, figures)])
    head = ["output", "kills", "undisturbed, s", "done before", "same bytes after"]
    measure.table("Killed conversions", [head, *rows])


if __name__ == "__main__":
    main()
