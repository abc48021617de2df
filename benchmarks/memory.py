"""The highest memory that each command has at one time, its worker processes included.

python benchmarks/memory.py [FOLDER]
"""

import argparse
import tempfile
from pathlib import Path

import measure


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    options = parser.parse_args()
    rows = [["command", "peak memory, GB"]]
    with tempfile.TemporaryDirectory() as scratch:
        records, run = f"{scratch}/records", f"{scratch}/run"
        fresh = f"{scratch}/fresh"
        commands = (
            ("-m", "pipeline.convert", str(options.folder), f"--out={records}"),
            ("-m", "pipeline.split", records),
            ("train.py", f"--data={records}", f"--run_dir={run}"),
            ("evaluate.py", f"--run_dir={run}"),
            (
                "train.py",
                f"--data={records}",
                f"--run_dir={fresh}",
                "--views=0",
                "--epochs=1",
            ),
        )
        for words in commands:
            peak = measure.peak_memory(*words)
            shown = " ".join(word for word in words if scratch not in word)
            shown = shown.replace(str(options.folder), "FOLDER").removeprefix("-m ")
            rows.append([shown, f"{peak / 1e9:.2f}"])
    measure.table("Memory", rows)


if __name__ == "__main__":
    main()
