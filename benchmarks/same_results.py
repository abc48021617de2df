r"""Digest what conversion, training, evaluation and export compute.

    python benchmarks/same_results.py DATA --scratch=/tmp/a --out=before.json
    ... change the code ...
    python benchmarks/same_results.py DATA --scratch=/tmp/b --out=after.json \
        --compare=before.json

DATA holds `flowers/` (class folders), `bees/` (Caffe lists `train.txt`, `val.txt` and
`labels.txt`) and `odd/` (class folders of damaged files). Only the commands are used,
so the script works on every version of the code. Times, versions and pictures are left
out. Takes two minutes on two cores.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SMALL = ("--batch_size=16", "--seed=3")
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
ENDINGS = {"saved_model": "", "onnx": ".onnx", "litert": ".tflite", "keras": ".keras"}
VARYING = ("report", "run", "data", "model_sha256", "seconds", "images_per_s")
TIMES = ("seconds", "images_per_s")
VERSIONS = ("tools", "versions")


class Digests:
    """Runs the commands of one tree and collects {name of a result: digest}."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        self.values: dict[str, str] = {}

    def command(self, *words: str, code: tuple[int, ...] = (0,)) -> str:
        """Runs one Python command of the tree in the scratch folder's records and runs.

        Raises:
            SystemExit: The command's exit status is not in `code`.
        """
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in code:
            raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stderr}")
        return done.stdout

    def add(self, name: str, content: bytes) -> None:
        """Stores one digest and prints it."""
        self.values[name] = hashlib.sha256(content).hexdigest()
        print(f"{self.values[name][:12]}  {name}", flush=True)

    def conversion(self, name: str, *words: str, code: tuple[int, ...] = (0,)) -> Path:
        """Converts, and digests every file that appears but for the tools' versions."""
        records = self.scratch / name
        self.command("-m", "pipeline.convert", *words, f"--out={records}", code=code)
        files = sorted(p for p in records.rglob("*") if p.is_file())
        joined = hashlib.sha256()
        for path in files:
            content = path.read_bytes()
            if path.name == "manifest.json":
                values = json.loads(content)
                kept = {k: v for k, v in values.items() if k not in VERSIONS}
                content = json.dumps(kept, sort_keys=True).encode()
            line = f"{path.relative_to(records)} {hashlib.sha256(content).hexdigest()}"
            joined.update(line.encode() + b"\n")
        self.add(f"records of {name} ({len(files)} files)", joined.digest())
        return records

    def training(self, name: str, records: Path, *words: str) -> Path:
        """Trains, and digests the weights of the run and the figures of its epochs."""
        run = self.scratch / name
        self.command("train.py", f"--data={records}", f"--run_dir={run}", *words)
        self.run(name, run)
        return run

    def run(self, name: str, run: Path) -> None:
        """Digests what a finished run holds."""
        self.add(f"weights of {name}", b"".join(_weights(run / "model.keras")))
        lines = (run / "metrics.jsonl").read_text().splitlines()
        epochs = [
            {k: v for k, v in json.loads(line).items() if k not in TIMES}
            for line in lines
        ]
        self.add(f"epochs of {name}", json.dumps(epochs, sort_keys=True).encode())
        self.add(f"ledger of {name}", (run / "ledger.json").read_bytes())

    def killed(self, name: str, records: Path, *words: str) -> None:
        """Trains, kills that after its first snapshot, resumes and digests it."""
        run = self.scratch / name
        process = subprocess.Popen(
            [
                sys.executable,
                "train.py",
                f"--data={records}",
                f"--run_dir={run}",
                *words,
            ],
            cwd=self.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and not list(run.glob("checkpoints/step-*.npz")):
            time.sleep(0.005)
        if process.poll() is not None:
            raise SystemExit(f"{name}: ended before it could be killed")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.command("train.py", f"--resume={run}")
        self.run(name, run)

    def evaluation(self, name: str, *words: str) -> None:
        """Evaluates a run, and digests its logits and figures."""
        run = self.scratch / name
        self.command("evaluate.py", f"--run_dir={run}", *words)
        for path in sorted((run / "evaluation").glob("*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                parts = [k.encode() + arrays[k].tobytes() for k in sorted(arrays.files)]
            self.add(f"logits of {name}, {path.stem}", b"".join(parts))
        for path in sorted((run / "evaluation").glob("*.json")):
            values = json.loads(path.read_text())
            kept = {k: v for k, v in values.items() if k not in VARYING}
            text = json.dumps(kept, sort_keys=True).replace(str(self.scratch), "")
            self.add(f"figures of {name}, {path.stem}", text.encode())

    def exports(self, name: str, photos: Iterable[Path]) -> None:
        """Exports a run in each format, and digests what each file answers."""
        run = self.scratch / name
        for kind, words in {
            "saved_model": ("--format=saved_model",),
            "onnx": ("--format=onnx",),
            "litert": ("--format=litert",),
            "litert-float16": ("--format=litert", "--quantize=float16"),
            "keras": ("--format=keras",),
        }.items():
            out = self.scratch / f"{name}-{kind}{ENDINGS[kind.partition('-')[0]]}"
            self.command(
                "-m", "model.export", f"--run_dir={run}", f"--out={out}", *words
            )
            answers = self.command("-c", ASK, kind, str(out), *map(str, photos))
            self.add(f"probabilities of {name}, {kind}", answers.encode())
        target = self.scratch / f"{name}.safetensors"
        self.command("-m", "model.export", f"--run_dir={run}", f"--weights={target}")
        content = target.read_bytes()
        self.add(
            f"safetensors of {name}",
            content[8 + int.from_bytes(content[:8], "little") :],
        )

    def predictions(self, name: str, photos: Iterable[Path]) -> None:
        """Digests what predict writes as lines of JSON."""
        words = ("-m", "model.predict", f"--run_dir={self.scratch / name}")
        text = self.command(*words, "--format=jsonl", *map(str, photos))
        self.add(f"predictions of {name}", text.replace(str(self.scratch), "").encode())


ASK = """
import sys, pathlib, numpy as np
kind, out, *photos = sys.argv[1:]
out = pathlib.Path(out)
draw = np.random.default_rng(7)
def images(size): return draw.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
def show(values): print(np.asarray(values, np.float32).tobytes().hex())
if kind == "saved_model":
    import tensorflow as tf
    model = tf.saved_model.load(str(out))
    signature = model.signatures["serving_default"]
    name = next(iter(signature.structured_input_signature[1]))
    for photo in photos:
        answer = signature(**{name: tf.constant([pathlib.Path(photo).read_bytes()])})
        show(answer["probabilities"])
elif kind == "onnx":
    import onnxruntime
    path = next(p for p in [out, *out.rglob("*.onnx")] if p.is_file())
    session = onnxruntime.InferenceSession(str(path))
    show(session.run(None, {session.get_inputs()[0].name: images(300)})[0])
elif kind.startswith("litert"):
    from ai_edge_litert.interpreter import Interpreter
    path = next(p for p in [out, *out.rglob("*.tflite")] if p.is_file())
    model = Interpreter(str(path), num_threads=1)
    place = model.get_input_details()[0]
    batch = images(place["shape"][1])
    for image in batch:
        model.resize_tensor_input(place["index"], [1, *image.shape])
        model.allocate_tensors()
        model.set_tensor(place["index"], image[None])
        model.invoke()
        show(model.get_tensor(model.get_output_details()[0]["index"]))
else:
    import keras
    path = next(p for p in [out, *out.rglob("*.keras")] if p.is_file())
    model = keras.models.load_model(path)
    answer = model.predict(images(model.input_shape[1]).astype("float32"), verbose=0)
    show(answer["probabilities"] if isinstance(answer, dict) else answer)
"""


def _weights(path: Path) -> Iterable[bytes]:
    """Yields name and bytes of each variable in a .keras file, by name."""
    import io

    import h5py

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
    """Digests everything, writes the digests and compares them with another tree's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parents[1]
    )
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compare", type=Path)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True)
    flowers, bees, odd = (args.data / n for n in ("flowers", "bees", "odd"))
    photos = sorted(flowers.glob("*/*.jpg"))[::150]
    tree = Digests(args.root, args.scratch.resolve())
    lists = (f"--lists={bees}/train.txt,{bees}/val.txt", f"--labels={bees}/labels.txt")
    records = tree.conversion("flowers", str(flowers), "--seed=1")
    tree.conversion("bees", str(bees), *lists)
    tree.conversion("odd", str(odd))
    tree.command("-m", "pipeline.split", str(records), "--folds=5", "--fold=1")
    tree.add("folds", (records / "manifest.jsonl").read_bytes())
    tree.training("head", records, "--ckpt=alexnet_conv", "--epochs=3", *SMALL)
    recipe = args.scratch / "stages.toml"
    recipe.write_text(STAGES)
    tree.training("stages", records, f"--recipe={recipe}")
    tree.killed("resumed", records, f"--recipe={recipe}")
    tree.evaluation("head")
    tree.evaluation("head", "--tta=flip", "--split=validation")
    tree.evaluation("stages")
    tree.predictions("head", photos)
    tree.exports("head", photos)
    args.out.write_text(json.dumps(tree.values, indent=2) + "\n")
    if args.compare:
        before = json.loads(args.compare.read_text())
        names = [*before, *(n for n in tree.values if n not in before)]
        other = [n for n in names if before.get(n) != tree.values.get(n)]
        print("\n".join(f"DIFFERENT  {n}" for n in other) or f"the same: {len(names)}")
        sys.exit(bool(other))


if __name__ == "__main__":
    main()
