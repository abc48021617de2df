"""Run commands on a disk that is too small, with more and more room, as root.

    python benchmarks/full_disk.py [FOLDER]

Each command writes to a file system in memory that has from 0 bytes of room to more
than it needs. It must end with exit code 2 and one line of error, or succeed. No
temporary file, and no run without a model or snapshot, may be left. Otherwise the exit
code is 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measure

DISK_BYTES = 128 << 20
ROOM_KB = (0, 4, 8, 16, 40, 100, 250, 600, 1500, 4000, 10_000, 25_000, 60_000)


def fill(disk: Path, room_kb: int) -> None:
    """Leave so much room on a disk."""
    with (disk / "fill").open("wb") as file:
        free = shutil.disk_usage(disk).free
        os.posix_fallocate(file.fileno(), 0, free - (room_kb << 10))


def find_remains(disk: Path) -> list[str]:
    """Return the temporary files, and the runs without a model or snapshot."""
    remains = [str(p) for p in disk.rglob("*") if "partial" in p.name]
    for config in disk.rglob("config.json"):
        run = config.parent
        if not [*run.glob("model.keras"), *run.glob("checkpoints/*.npz")]:
            remains.append(str(run))
    return remains


def try_command(words: Sequence[str], disk: Path) -> tuple[int, list[str]]:
    """Run a command; return its exit code and what is wrong with its end."""
    process = measure.start_python(
        *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _, log = process.communicate()
    problems = find_remains(disk)
    num_errors = sum(line.startswith("error: ") for line in log.splitlines())
    if process.returncode not in (0, 2) or num_errors != (process.returncode == 2):
        problems.append(f"exit code {process.returncode}, {num_errors} errors")
    return process.returncode, problems


def main() -> None:
    """Print the table."""
    options = measure.argument_parser(__doc__).parse_args()
    rows = [["command", "disks", "too small", "large enough", "problems"]]
    with tempfile.TemporaryDirectory() as scratch:
        disk, records, run = (Path(scratch, name) for name in ("disk", "rec", "run"))
        disk.mkdir()
        train = ("train.py", f"--data={records}", "--epochs=2", "--precision=float32")
        small = (*train, "--ckpt=none", "--arch=cifar_cnn", f"--run_dir={disk}/run")
        measure.convert(options.folder, str(records))
        measure.run_python(*train, f"--run_dir={run}")
        export = ("-m", "model.export", f"--run_dir={disk}/run")
        commands = {
            "convert": (
                "-m",
                "pipeline.convert",
                f"{options.folder}",
                f"--out={disk}/r",
            ),
            "split": ("-m", "pipeline.split", f"{disk}/rec", "--seed=1"),
            "train": small,
            "train with snapshots": (*small, "--snapshot_steps=2"),
            "train a head": (*train, f"--run_dir={disk}/head"),
            "evaluate": ("evaluate.py", f"--run_dir={disk}/run"),
            **{
                f"export to {kind}": (*export, f"--format={kind}")
                for kind in ("keras", "saved_model", "onnx", "litert")
            },
        }
        for name, words in commands.items():
            codes, problems = [], []
            for room_kb in ROOM_KB:
                subprocess.run(
                    ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk],
                    check=True,
                )
                try:
                    if f"{disk}/rec" in words:
                        shutil.copytree(records, disk / "rec")
                    if f"--run_dir={disk}/run" in words and "train.py" not in words:
                        shutil.copytree(run, disk / "run")
                    fill(disk, room_kb)
                    code, wrong = try_command(words, disk)
                finally:
                    subprocess.run(["umount", disk], check=True)
                codes.append(code)
                problems += wrong
                if not code:
                    break
            figures = (len(codes), codes.count(2), codes.count(0), len(problems))
            rows.append([name, *map(str, figures)])
            print(name, *problems, sep="\n  ", flush=True)
    measure.print_table("Commands on disks of several sizes", rows)
    if any(row[-1] != "0" for row in rows[1:]):
        sys.exit(1)


if __name__ == "__main__":
    main()
