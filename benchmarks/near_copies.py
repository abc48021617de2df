"""Measure which near-copies of training photos the list of a training names.

    python benchmarks/near_copies.py [FOLDER] [--networks=alexnet,vgg16]
        [--pairs=FILE]

100 photos stay in training; copies of them, changed in nine ways, are in the test
split. The other photos are tested in five folds, against those of the other folds: the
table has the share of copies that are named with their original, by kind, and the share
of other photos that are named. --pairs writes the latter, to be looked at: photos of
one series are near-copies indeed.
"""

import csv
import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import time

import cv2
import numpy as np

from model.loop import device
from model.loop.inputs import feature_cache, near_copies
from model.training import settings, stages, starting_point, trunk_and_tail
from model.weights import model_variables
from pipeline.batches import image_batches
from pipeline.records import manifest

NUM_COPIED, NUM_FOLDS = 100, 5
# Without a target: the photo is small in a screenshot.
EXTRA = ("screenshot", "watermark")
Image = np.ndarray  # uint8 [height, width, 3], BGR


def cut(image: Image, share: float) -> Image:
    """Cut off a share of each border."""
    height, width = image.shape[:2]
    top, left = round(height * share), round(width * share)
    return image[top : height - top, left : width - left]


def crop_centre(image: Image) -> Image:
    """Keep a central square of 7/8 of the short side."""
    height, width = image.shape[:2]
    side = round(min(height, width) * 0.875)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def add_border(image: Image, number: int) -> Image:
    """Add a plain border of 6 % of the short side, in one of four colours."""
    colour = ((255, 255, 255), (0, 0, 0), (40, 40, 40), (200, 220, 230))[number % 4]
    widths = [round(0.06 * min(image.shape[:2]))] * 4
    return cv2.copyMakeBorder(image, *widths, cv2.BORDER_CONSTANT, value=colour)


def warm(image: Image) -> Image:
    """Make blue 18 % darker and red 18 % brighter."""
    gains = np.array([0.82, 1, 1.18], np.float32)
    return np.clip(image * gains, 0, 255).astype(np.uint8)


def turn(image: Image, degrees: float) -> Image:
    """Turn around the centre; the corners are black."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height))


def shoot_again(image: Image, number: int) -> Image:
    """Turn up to a degree, shift up to 3 %, cut, change the exposure, add noise."""
    random = np.random.default_rng(number)
    height, width = image.shape[:2]
    centre, degrees = (width / 2, height / 2), random.uniform(-1, 1)
    matrix = cv2.getRotationMatrix2D(centre, degrees, 1.06)
    matrix[:, 2] += random.uniform(-0.03, 0.03, 2) * (width, height)
    moved = cv2.warpAffine(
        image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT
    )
    pixels = moved * random.uniform(0.9, 1.12) + random.normal(0, 6, moved.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def take_screenshot(image: Image, number: int) -> Image:
    """Show the photo on a phone, 540 x 1080 pixels, with two lines of text."""
    screen = np.full((1080, 540, 3), 255 if number % 2 else 18, np.uint8)
    scale = min(540 / image.shape[1], 880 / image.shape[0])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    top, left = (1080 - height) // 2, (540 - width) // 2
    screen[top : top + height, left : left + width] = small
    colour = (0, 0, 0) if number % 2 else (230, 230, 230)
    for text, baseline in (("12:34   Photos", 40), ("Share  Edit  Delete", 1040)):
        cv2.putText(screen, text, (20, baseline), 0, 1, colour, 2)
    return screen


def add_watermark(image: Image) -> Image:
    """Write across the photo, half transparent."""
    height, width = image.shape[:2]
    written, scale = image.copy(), width / 300
    place = (int(0.05 * width), int(0.55 * height))
    thickness = max(2, int(3 * scale))
    cv2.putText(written, "(c) PHOTO STOCK", place, 0, scale, (255, 255, 255), thickness)
    return cv2.addWeighted(image, 0.5, written, 0.5, 0)


KINDS: Mapping[str, Callable[[Image, int], Image]] = {
    "5 % cut": lambda image, _: cut(image, 0.05),
    "10 % cut": lambda image, _: cut(image, 0.1),
    "centre crop": lambda image, _: crop_centre(image),
    "border": add_border,
    "warm": lambda image, _: warm(image),
    "3 degrees": lambda image, number: turn(image, 3 if number % 2 else -3),
    "burst": shoot_again,
    "screenshot": take_screenshot,
    "watermark": lambda image, _: add_watermark(image),
}


def write_photos(source: Path, target: Path) -> None:
    """Write all photos, and the copies as NAME@KIND.jpg."""
    photos = measure.list_photos(source)
    chosen = np.random.default_rng(7).permutation(len(photos))[:NUM_COPIED]
    for number, path in enumerate(photos):
        folder = target / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
        if number in chosen:
            image = cv2.imread(str(path))
            for kind, change in KINDS.items():
                cv2.imwrite(
                    str(folder / f"{path.stem}@{kind}.jpg"),
                    change(image, number),
                    [cv2.IMWRITE_JPEG_QUALITY, 88],
                )


def split_by_fold(records: manifest.Manifest, fold: int) -> manifest.Manifest:
    """Return the records with the copies and the other photos of a fold as test split.

    Photos that conversion put into one group are in one fold.
    """
    names = {row.path.partition("@")[0] for row in records.rows if "@" in row.path}
    copied = {
        row.group for row in records.rows if row.path.removesuffix(".jpg") in names
    }
    groups = sorted({row.group for row in records.included()})
    order = np.random.default_rng(0).permutation(len(groups))
    fold_of = dict(zip(groups, order % NUM_FOLDS, strict=True))

    def split_of(row: manifest.Row) -> str:
        if "@" in row.path:
            return "test"
        is_copied = row.group in copied
        return "train" if is_copied or fold_of[row.group] != fold else "test"

    rows = [dataclasses.replace(row, split=split_of(row)) for row in records.included()]
    return dataclasses.replace(records, rows=tuple(rows))


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--networks", default="alexnet,efficientnet_lite0")
    parser.add_argument("--pairs", type=Path)
    options = parser.parse_args()
    header = ["network", *KINDS, "all but the last two", "others", "threshold", "s"]
    table, pairs = [header], []
    with tempfile.TemporaryDirectory() as scratch:
        write_photos(options.folder, Path(scratch) / "photos")
        measure.convert(Path(scratch) / "photos", f"{scratch}/records")
        records = manifest.read(Path(scratch) / "records")
        for network in options.networks.split(","):
            line, named = measure_network(network, records, Path(scratch) / "cache")
            table.append(line)
            pairs += [(network, *pair) for pair in named]
    measure.print_table("Near-copies named", table)
    if options.pairs:
        with options.pairs.open("w", newline="") as file:
            csv.writer(file).writerows(pairs)


def measure_network(
    name: str, records: manifest.Manifest, cache_dir: Path
) -> tuple[list[str], list[tuple[str, str, float]]]:
    """Return the line of a network, and the other photos that it names."""
    config = settings.Config(ckpt=name)
    start = starting_point.choose(config, records)
    (stage,) = stages.plan_stages(
        start,
        config,
        num_classes=len(records.class_names),
        num_training=len(records.included()),
    )
    plan = stage.plan
    setup = device.set_up("auto", cache_dir)
    trunk = trunk_and_tail.build_trunk(plan, setup.frozen_policy)
    model_variables.assign(trunk, start.restored.values if start.restored else {})
    rows = records.included()
    features = feature_cache.extract(
        trunk,
        image_batches.Images(
            records, rows, plan.spec, batch_size=feature_cache.BATCH_SIZE
        ),
        {feature_cache.CENTRAL: np.arange(len(rows))},
        cache_dir=cache_dir,
        identity=feature_cache.identity_of(
            trunk, plan.trunk_output, plan.spec, setup.precision
        ),
    )
    named = dict.fromkeys(KINDS, 0)
    others, num_others, thresholds, seconds = [], 0, [], []
    for fold in range(NUM_FOLDS):
        divided = split_by_fold(records, fold)
        began = time.perf_counter()
        result = near_copies.search(divided, features, trunk, plan.spec)
        seconds.append(time.perf_counter() - began)
        thresholds.append(result["threshold"])
        num_others += sum("@" not in row.path for row in divided.included("test"))
        for photo in result["photos"]:
            original, _, kind = Path(photo["path"]).stem.partition("@")
            if not kind:
                pair = (photo["path"], photo["similar_to"], photo["similarity"])
                others.append(pair)
            elif Path(photo["similar_to"]).stem == original:
                named[kind] += 1
    shares = {kind: n / NUM_FOLDS / NUM_COPIED for kind, n in named.items()}
    overall = np.mean([share for kind, share in shares.items() if kind not in EXTRA])
    cells = [*shares.values(), overall, len(others) / num_others]
    line = [name, *(f"{100 * cell:.1f} %" for cell in cells)]
    return [*line, f"{np.mean(thresholds):.2f}", f"{np.mean(seconds):.1f}"], others


if __name__ == "__main__":
    main()
