"""Compare two processes that train together with one process on the same cores.

    python benchmarks/two_workers.py [FOLDER] [--rounds=3] [--photos=250] [--epochs=3]

Both train AlexNet from conv1 on with the same batches of 64 photos: train.py alone, and
two of it, joined by TF_CONFIG. Photos per second are read from metrics.jsonl, without
the first epoch, in which TensorFlow builds its graphs. The losses must be the same.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure

LOSSES = ("loss", "validation_loss")


def find_free_ports(count: int) -> list[int]:
    """Return local ports on which nothing listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def train(
    num_processes: int, records: str, run: Path, epochs: int
) -> list[dict[str, Any]]:
    """Train with some processes and return the lines of metrics.jsonl."""
    words = (
        *("train.py", "--ckpt=alexnet_conv", "--train_from=conv1", "--views=0"),
        *("--batch_size=64", "--dropout=0", "--learning_rate=1e-5"),
        *(f"--epochs={epochs}", f"--data={records}", f"--run_dir={run}"),
    )
    addresses = [f"127.0.0.1:{port}" for port in find_free_ports(num_processes)]
    processes = []
    for index in range(num_processes):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": addresses}, "task": task})
        environment = {"TF_CONFIG": cluster} if num_processes > 1 else {}
        process = measure.start_python(
            *words, env=os.environ | environment, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
    errors = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("\n".join(errors))
    return measure.read_epochs(run)


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=3)
    parser.add_argument(
        "--photos", type=int, default=250, help="size of the sample (250)"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs, at least 2 (3)")
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    largest_difference = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        records = measure.convert_sample(options.folder, Path(scratch), options.photos)
        for number in range(options.rounds):
            losses = []
            for num_processes, values in rates.items():
                run = Path(scratch) / f"runs{number}" / f"{num_processes}"
                epochs = train(num_processes, records, run, options.epochs)
                values.append(statistics.median(e["images_per_s"] for e in epochs[1:]))
                losses.append([epoch[name] for epoch in epochs for name in LOSSES])
            differences = (abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
            largest_difference = max(largest_difference, *differences)
    names = {1: "1 process", 2: "2 processes"}
    rows = measure.rate_rows({names[n]: rates[n] for n in rates}, names[1])
    measure.print_table("AlexNet from conv1 on, batches of 64", rows)
    print(f"largest relative difference of a loss: {largest_difference:.1e}")


if __name__ == "__main__":
    main()
