"""Check that killed conversions, when repeated, give the bytes of undisturbed ones.

    python benchmarks/killed_conversions.py [FOLDER] [--kills=30] [--seed=0]

Two kinds of conversion are killed at random moments and then repeated: into an empty
folder, and over records of half of the photos. SIGKILL ends all processes of a
conversion. The digest of all output files is compared with that of a conversion that
was not killed.
"""

import hashlib
import random
import shutil
import tempfile
import time
from pathlib import Path

import measure


def kill_conversion(source: Path, out: Path, after_s: float) -> None:
    """Start a conversion and kill it."""
    words = ("-m", "pipeline.convert", str(source), f"--out={out}")
    process = measure.start_python(*words, start_new_session=True)
    time.sleep(after_s)
    measure.kill(process)


def prepare(out: Path, existing: Path | None) -> Path:
    """Remove a folder, or replace it by a copy of existing records; return it."""
    shutil.rmtree(out, ignore_errors=True)
    if existing:
        shutil.copytree(existing, out)
    return out


def digest_folder(folder: Path) -> str:
    """Return one digest of the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main() -> None:
    """Print how many outputs are the same."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=30, help="kills of each kind (30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    rows = [
        ["conversion", "kills", "undisturbed, s", "complete when killed", "same bytes"]
    ]
    with tempfile.TemporaryDirectory() as scratch:
        whole, half = options.folder, Path(scratch, "half")
        for path in sorted(p for p in whole.rglob("*") if p.is_file())[::2]:
            target = half / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        half_records = Path(scratch, "half-records")
        measure.convert(half, str(half_records))
        for name, existing in (
            ("into an empty folder", None),
            ("over records of half the photos", half_records),
        ):
            undisturbed = prepare(Path(scratch, "undisturbed"), existing)
            start = time.perf_counter()
            measure.convert(whole, str(undisturbed))
            seconds = time.perf_counter() - start
            expected = digest_folder(undisturbed)
            num_complete = num_same = 0
            for _ in range(options.kills):
                out = prepare(Path(scratch, "killed"), existing)
                kill_conversion(whole, out, moments.uniform(0.01, seconds))
                num_complete += digest_folder(out) == expected
                measure.convert(whole, str(out))
                num_same += digest_folder(out) == expected
            figures = (options.kills, f"{seconds:.1f}", num_complete, num_same)
            rows.append([name, *map(str, figures)])
    measure.print_table("Killed conversions", rows)


if __name__ == "__main__":
    main()
