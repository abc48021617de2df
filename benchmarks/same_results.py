r"""Digest what conversion, training, evaluation and export compute.

    python benchmarks/same_results.py DATA --scratch=/tmp/a --out=before.json
    ... change the code ...
    python benchmarks/same_results.py DATA --scratch=/tmp/b --out=after.json \
        --compare=before.json

DATA holds `flowers/` (class folders), `bees/` (Caffe lists `train.txt`, `val.txt` and
`labels.txt`) and `odd/` (class folders of damaged files). The script only runs commands
and imports nothing of Graft, so it works on every version of the code. Times, versions
and pictures are left out. It takes two minutes on two cores.
"""

import argparse
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

STAGES = """
ckpt = "none"
arch = "cifar_cnn"
batch_size = 16
snapshot_steps = 5
[[stages]]
stage = "first"
epochs = 2
[[stages]]
stage = "second"
epochs = 2
optimizer = "sgd"
momentum = 0.9
iter_size = 2
ema = 0.9
clip_norm = 1.0
start = "last"
rotation = 20.0
zoom = 0.2
brightness = 0.2
cutout = 0.2
mixup = 0.2
rates = {"*/bias" = [2, 0]}
policy = "step"
gamma = 0.5
stepsize = 10
"""
EXPORTS = {
    "saved_model": ("", "--format=saved_model"),
    "onnx": (".onnx", "--format=onnx"),
    "litert": (".tflite", "--format=litert"),
    "litert-float16": (".tflite", "--format=litert", "--quantize=float16"),
    "keras": (".keras", "--format=keras"),
}
# Keys that differ from run to run or from version to version.
TIMES = ("seconds", "images_per_s")
VERSIONS = ("tools", "versions")
PATHS_AND_TIMES = ("report", "run", "data", "model_sha256", "seal", *TIMES)


class Digests:
    """Run commands of one source tree and collect digests of their results.

    Attributes:
        root: Root of the source tree.
        scratch: Folder of all outputs.
        values: {name of a result: SHA-256}.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        self.values: dict[str, str] = {}

    def command(self, *words: str) -> str:
        """Run a Python command in the source tree and return its output.

        Raises:
            SystemExit: The command's exit code is not 0.
        """
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def add(self, name: str, content: bytes) -> None:
        """Store a digest and print it."""
        self.values[name] = hashlib.sha256(content).hexdigest()
        print(f"{self.values[name][:12]}  {name}", flush=True)

    def convert(self, name: str, *words: str) -> Path:
        """Convert, and digest every output file without the versions of the tools."""
        records = self.scratch / name
        self.command("-m", "pipeline.convert", *words, f"--out={records}")
        files = sorted(p for p in records.rglob("*") if p.is_file())
        joined = hashlib.sha256()
        for path in files:
            content = path.read_bytes()
            if path.name == "manifest.json":
                values = json.loads(content)
                content = _json_without(values, VERSIONS).encode()
            line = f"{path.relative_to(records)} {hashlib.sha256(content).hexdigest()}"
            joined.update(line.encode() + b"\n")
        self.add(f"records of {name} ({len(files)} files)", joined.digest())
        return records

    def train(self, name: str, records: Path, *words: str) -> None:
        """Train, and digest the run."""
        run = self.scratch / name
        self.command("train.py", f"--data={records}", f"--run_dir={run}", *words)
        self.digest_run(name, run)

    def digest_run(self, name: str, run: Path) -> None:
        """Digest weights, epochs and ledger of a finished run."""
        self.add(f"weights of {name}", b"".join(_weights(run / "model.keras")))
        lines = (run / "metrics.jsonl").read_text().splitlines()
        epochs = [_json_without(json.loads(line), TIMES) for line in lines]
        self.add(f"epochs of {name}", f"[{', '.join(epochs)}]".encode())
        self.add(f"ledger of {name}", (run / "ledger.json").read_bytes())

    def kill_and_resume(self, name: str, records: Path, *words: str) -> None:
        """Kill a training after its first snapshot, resume it, and digest the run."""
        run = self.scratch / name
        process = subprocess.Popen(
            [
                sys.executable,
                "train.py",
                *words,
                f"--data={records}",
                f"--run_dir={run}",
            ],
            cwd=self.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and not list(run.glob("checkpoints/step-*.npz")):
            time.sleep(0.005)
        if process.poll() is not None:
            sys.exit(f"{name}: ended before it could be killed")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.command("train.py", f"--resume={run}")
        self.digest_run(name, run)

    def evaluate(self, name: str, *words: str) -> None:
        """Evaluate a run, and digest its logits and figures."""
        run = self.scratch / name
        self.command("evaluate.py", f"--run_dir={run}", *words)
        for path in sorted((run / "evaluation").glob("*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                parts = [k.encode() + arrays[k].tobytes() for k in sorted(arrays.files)]
            self.add(f"logits of {name}, {path.stem}", b"".join(parts))
        for path in sorted((run / "evaluation").glob("*.json")):
            values = json.loads(path.read_text())
            text = _json_without(values, PATHS_AND_TIMES)
            text = text.replace(str(self.scratch), "")
            self.add(f"figures of {name}, {path.stem}", text.encode())

    def export(self, name: str, photos: Iterable[Path]) -> None:
        """Export a run in each format, and digest the probabilities of each file."""
        run = self.scratch / name
        for kind, (ending, *words) in EXPORTS.items():
            out = self.scratch / f"{name}-{kind}{ending}"
            self.command(
                "-m", "model.export", f"--run_dir={run}", f"--out={out}", *words
            )
            text = self.command("-c", PREDICT, kind, str(out), *map(str, photos))
            self.add(f"probabilities of {name}, {kind}", text.encode())
        target = self.scratch / f"{name}.safetensors"
        self.command("-m", "model.export", f"--run_dir={run}", f"--weights={target}")
        content = target.read_bytes()
        header_bytes = 8 + int.from_bytes(content[:8], "little")
        self.add(f"safetensors of {name}", content[header_bytes:])

    def predict(self, name: str, photos: Iterable[Path]) -> None:
        """Digest the JSON lines of model.predict."""
        words = ("-m", "model.predict", f"--run_dir={self.scratch / name}")
        text = self.command(*words, "--format=jsonl", *map(str, photos))
        self.add(f"predictions of {name}", text.replace(str(self.scratch), "").encode())


# Prints the probabilities of an exported file, in hexadecimal.
PREDICT = """
import sys, pathlib, numpy as np
kind, out, *photos = sys.argv[1:]
out = pathlib.Path(out)
random = np.random.default_rng(7)
def images(size): return random.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
def show(values): print(np.asarray(values, np.float32).tobytes().hex())
if kind == "saved_model":
    import tensorflow as tf
    model = tf.saved_model.load(str(out))
    signature = model.signatures["serving_default"]
    name = next(iter(signature.structured_input_signature[1]))
    for photo in photos:
        outputs = signature(**{name: tf.constant([pathlib.Path(photo).read_bytes()])})
        show(outputs["probabilities"])
elif kind == "onnx":
    import onnxruntime
    path = next(p for p in [out, *out.rglob("*.onnx")] if p.is_file())
    session = onnxruntime.InferenceSession(str(path))
    show(session.run(None, {session.get_inputs()[0].name: images(300)})[0])
elif kind.startswith("litert"):
    from ai_edge_litert.interpreter import Interpreter
    path = next(p for p in [out, *out.rglob("*.tflite")] if p.is_file())
    model = Interpreter(str(path), num_threads=1)
    details = model.get_input_details()[0]
    batch = images(details["shape"][1])
    for image in batch:
        model.resize_tensor_input(details["index"], [1, *image.shape])
        model.allocate_tensors()
        model.set_tensor(details["index"], image[None])
        model.invoke()
        show(model.get_tensor(model.get_output_details()[0]["index"]))
else:
    import keras
    path = next(p for p in [out, *out.rglob("*.keras")] if p.is_file())
    model = keras.models.load_model(path)
    outputs = model.predict(images(model.input_shape[1]).astype("float32"), verbose=0)
    show(outputs["probabilities"] if isinstance(outputs, dict) else outputs)
"""


def _json_without(values: dict[str, Any], keys: Iterable[str]) -> str:
    return json.dumps(
        {k: v for k, v in values.items() if k not in keys}, sort_keys=True
    )


def _weights(path: Path) -> Iterable[bytes]:
    """Yield name and bytes of each variable in a .keras file, sorted by name."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read("model.weights.h5")
    arrays: dict[str, bytes] = {}
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(
            lambda name, item: (
                arrays.update({name: item[()].tobytes()})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    for name in sorted(arrays):
        yield name.encode() + arrays[name]


def main() -> None:
    """Write the digests and compare them with those of another version."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of photos")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parents[1],
        help="source tree to run (that of this script)",
    )
    parser.add_argument(
        "--scratch", type=Path, required=True, help="new folder for all outputs"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file for the digests"
    )
    parser.add_argument("--compare", type=Path, help="JSON file of another version")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True)
    flowers, bees, odd = (options.data / name for name in ("flowers", "bees", "odd"))
    photos = sorted(flowers.glob("*/*.jpg"))[::150]
    tree = Digests(options.root, options.scratch.resolve())
    lists = (f"--lists={bees}/train.txt,{bees}/val.txt", f"--labels={bees}/labels.txt")
    records = tree.convert("flowers", str(flowers), "--seed=1")
    tree.convert("bees", str(bees), *lists)
    tree.convert("odd", str(odd))
    tree.command("-m", "pipeline.split", str(records), "--folds=5", "--fold=1")
    tree.add("folds", (records / "manifest.jsonl").read_bytes())
    small = ("--ckpt=alexnet_conv", "--epochs=3", "--batch_size=16", "--seed=3")
    tree.train("head", records, *small)
    recipe = options.scratch / "stages.toml"
    recipe.write_text(STAGES)
    tree.train("stages", records, f"--recipe={recipe}")
    tree.kill_and_resume("resumed", records, f"--recipe={recipe}")
    tree.evaluate("head")
    tree.evaluate("head", "--tta=flip", "--split=validation")
    tree.evaluate("stages")
    tree.predict("head", photos)
    tree.export("head", photos)
    options.out.write_text(json.dumps(tree.values, indent=2) + "\n")
    if options.compare:
        other = json.loads(options.compare.read_text())
        names = [*other, *(name for name in tree.values if name not in other)]
        different = [name for name in names if other.get(name) != tree.values.get(name)]
        print(
            "\n".join(f"DIFFERENT  {name}" for name in different)
            or f"all {len(names)} digests are the same"
        )
        sys.exit(bool(different))


if __name__ == "__main__":
    main()
