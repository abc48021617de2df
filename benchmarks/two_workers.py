"""How fast two processes of one machine train together, against one on the same cores.

    python benchmarks/two_workers.py [FOLDER] [--rounds=3] [--photos=250] [--epochs=3]

AlexNet from conv1 on, from records, with the same batches of 64 photos: train.py alone,
and two of them that TF_CONFIG joins. Photos per second are those of metrics.jsonl after
the first epoch, in which graphs are built; the losses must be the same.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

_LOSSES = ("loss", "validation_loss")


def free_ports(count: int) -> list[int]:
    """Ports where nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def train(processes: int, records: str, directory: Path, epochs: int) -> list[dict]:
    """Lines of metrics.jsonl of a training by so many processes."""
    words = [
        *(sys.executable, "train.py", "--ckpt=alexnet_conv", "--train_from=conv1"),
        *("--views=0", "--batch_size=64", "--dropout=0", f"--epochs={epochs}"),
        *(f"--data={records}", f"--run_dir={directory}", "--learning_rate=1e-5"),
    ]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(processes)]}
    running = []
    for rank in range(processes):
        task = {"type": "worker", "index": rank}
        joined = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        environment = os.environ | (joined if processes > 1 else {})
        running.append(
            subprocess.Popen(
                words,
                cwd=measure.ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        sys.exit("\n".join(said))
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=250, help="of all classes")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    apart = 0.0  # the greatest difference of a loss
    with tempfile.TemporaryDirectory() as scratch:
        few = Path(scratch) / "few"
        measure.some_photos(options.folder, few, options.photos)
        records = f"{scratch}/records"
        measure.command("-m", "pipeline.convert", str(few), f"--out={records}")
        for number in range(options.rounds):
            losses = []
            for processes, found in rates.items():
                where = Path(scratch) / f"runs{number}" / f"{processes}"
                lines = train(processes, records, where, options.epochs)
                rate = statistics.median(line["images_per_s"] for line in lines[1:])
                found.append(rate)
                losses.append([line[name] for line in lines for name in _LOSSES])
            pairs = zip(*losses, strict=True)
            apart = max(apart, *(abs(a - b) / abs(a) for a, b in pairs))
    named = {f"{count} process{'es' * (count > 1)}": r for count, r in rates.items()}
    rows = measure.rate_rows(named, "1 process")
    measure.table("AlexNet from conv1 on, batches of 64", rows)
    print(f"losses of all epochs differ by at most {apart:.1e} of themselves")


if __name__ == "__main__":
    main()
