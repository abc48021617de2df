"""Measure the peak memory of each command, including its worker processes.

python benchmarks/memory.py [FOLDER]
"""

import tempfile

import measure


def main() -> None:
    """Print the table."""
    options = measure.argument_parser(__doc__).parse_args()
    rows = [["command", "peak memory, GB"]]
    with tempfile.TemporaryDirectory() as scratch:
        records, run = f"{scratch}/records", f"--run_dir={scratch}/run"
        train = ("train.py", f"--data={records}")
        for words in (
            ("-m", "pipeline.convert", str(options.folder), f"--out={records}"),
            ("-m", "pipeline.split", records),
            (*train, run),
            ("evaluate.py", run),
            (*train, f"--run_dir={scratch}/no-cache", "--views=0", "--epochs=1"),
        ):
            peak = measure.peak_memory(*words)
            shown = " ".join(word for word in words if scratch not in word)
            shown = shown.replace(str(options.folder), "FOLDER").removeprefix("-m ")
            rows.append([shown, f"{peak / 1e9:.2f}"])
    measure.print_table("Memory", rows)


if __name__ == "__main__":
    main()
