"""Draw a data set of paper flowers from a seed, without a network.

Background, size, turn, light, blur and what hangs in front of the flowers vary from
photo to photo. So neither colour nor the outline of the whole picture gives the kind
away.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from pipeline.download import flower_archive, flower_canvas, flower_kinds
from pipeline.download.flower_canvas import OVERSIZE, Canvas, Image
from pipeline.download.flower_kinds import COLOURS, Pose
from pipeline.images import opencv
from pipeline.system import command_line, file_system, process_pool
from pipeline.system.errors import DataError

KINDS = tuple(flower_kinds.KINDS)

Drawing = tuple[str, str, int]  # name of the file, kind, number within the kind


def draw_missing(target: Path, *, images_per_class: int, seed: int) -> int:
    """Draw the photos of a data set that are missing, and return their number."""
    photos = {
        f"{kind}/{kind}_{number:04d}.jpg": (kind, number)
        for kind in KINDS
        for number in range(images_per_class)
    }
    files = flower_archive.files_below(target)
    if foreign := sorted(files - photos.keys()):
        raise DataError(
            f"{target}: has other files, such as {foreign[0]}. Choose an empty folder"
        )
    if files:
        name = min(files)
        kind, number = photos[name]
        expected = flower_canvas.encode(draw(kind, seed, number))
        if (target / name).read_bytes() != expected:
            raise DataError(
                f"{target}: {name} is not what --seed={seed} draws. Choose an empty "
                "folder, or the seed it was drawn with"
            )
    for kind in KINDS:
        (target / kind).mkdir(parents=True, exist_ok=True)
    missing = [(name, *photos[name]) for name in sorted(photos.keys() - files)]
    with command_line.progress(len(missing), "photo", "draw") as progress:
        for _ in process_pool.map_blocks(
            functools.partial(_draw_block, target, seed),
            missing,
            on_crash=_raise_crash,
            initializer=opencv.use_one_thread,
            block_size=1,
        ):
            progress.update()
    return len(missing)


def _draw_block(target: Path, seed: int, block: Sequence[Drawing]) -> Sequence[Drawing]:
    for name, kind, number in block:
        with file_system.replacing(target / name) as partial:
            partial.write_bytes(flower_canvas.encode(draw(kind, seed, number)))
    return block


def _raise_crash(photo: Drawing) -> NoReturn:
    raise DataError(f"{photo[0]}: the process that draws this photo has crashed")


def _background(random: np.random.Generator, height: int, width: int) -> Canvas:
    """Return a canvas with a blurred meadow, bokeh, wood, plaster or sky."""
    bases = np.array(
        [(74, 112, 52), (38, 62, 44), (128, 92, 62), (196, 188, 172), (132, 170, 206)]
    )
    kind = int(random.integers(len(bases)))
    top = bases[kind] * random.uniform(0.6, 1.25) + random.normal(0, 14, 3)
    bottom = top * random.uniform(0.55, 1.1) + random.normal(0, 10, 3)
    ramp = np.linspace(0, 1, height)[:, None, None]
    column = (top * (1 - ramp) + bottom * ramp).astype(np.float32)
    canvas = Canvas(pixels=np.repeat(column, width, axis=1), random=random)
    if kind in (0, 4):
        _blades(canvas, int(random.integers(40, 160)))
    elif kind == 1:
        _bokeh(canvas)
    stretch = (width // 8, height // 48) if kind == 2 else (width // 16, height // 12)
    for size, strength in ((stretch, 16.0), ((width // 3, height // 3), 5.0)):
        canvas.grain(*size, strength * random.uniform(0.5, 1.2))
    sigma = random.uniform(0.5, 5) * OVERSIZE
    return Canvas(pixels=flower_canvas.soften(canvas.pixels, sigma), random=random)


def _blades(canvas: Canvas, count: int) -> None:
    """Draw blades of grass, from the lower edge upwards."""
    height, width = canvas.pixels.shape[:2]
    for _ in range(count):
        root = np.array([canvas.random.uniform(0, width), height * 1.02])
        tip = root + canvas.random.normal(0, 1, 2) * (width / 8, height / 6)
        tip[1] -= height * canvas.random.uniform(0.1, 0.6)
        middle = (root + tip) / 2 + canvas.random.normal(0, 10, 2)
        green = np.array([84, 128, 56]) * canvas.random.uniform(0.5, 1.4)
        line = np.stack([root, middle, tip])
        canvas.line(line, np.clip(green, 0, 255), canvas.random.uniform(2, 7))


def _bokeh(canvas: Canvas) -> None:
    """Draw discs of light, far out of focus."""
    height, width = canvas.pixels.shape[:2]
    for _ in range(int(canvas.random.integers(8, 26))):
        centre = canvas.random.uniform(0, 1, 2) * (width, height)
        colour = COLOURS[canvas.random.integers(len(COLOURS))]
        mixed = 0.35 * colour + 0.65 * np.array([60, 90, 60])
        canvas.disc(centre, canvas.random.uniform(0.02, 0.09) * width, mixed)


def _poses(random: np.random.Generator, height: int, width: int) -> list[Pose]:
    """Return the pose of one flower, or of a few smaller ones."""
    count = int(random.choice([1, 2, 3, 5], p=[0.5, 0.2, 0.2, 0.1]))
    largest = {1: 0.42, 2: 0.3, 3: 0.25, 5: 0.2}[count]
    poses = []
    for _ in range(count):
        radius = height * random.uniform(0.55, 1.0) * largest
        margin = min(0.45, 0.6 * radius / height)
        pose = Pose(
            centre=random.uniform(margin, 1 - margin, 2) * (width, height),
            radius=radius,
            turn=random.uniform(0, 2 * np.pi),
            tilt=random.uniform(0.55, 1),
            tilt_axis=random.uniform(0, np.pi),
        )
        poses.append(pose)
    return poses


def _leaf_in_front(canvas: Canvas) -> None:
    """Draw a large leaf that hangs into the picture, out of focus."""
    random = canvas.random
    height, width = canvas.pixels.shape[:2]
    side = random.choice([-1, 1])
    leaf = Pose(
        centre=np.array([width * (0.5 - 0.55 * side), height * random.uniform(0, 1)]),
        radius=width * random.uniform(0.3, 0.5),
        turn=(0 if side > 0 else np.pi) + random.normal(0, 0.4),
    )
    sharp = canvas.pixels.copy()
    green = np.array([72, 118, 54]) * random.uniform(0.6, 1.3)
    outline = flower_kinds.petal(random.uniform(0.1, 0.2), 1.0, 0)
    flower_kinds.fill_petal(canvas, leaf, outline, 0, green)
    changed = np.abs(canvas.pixels - sharp).sum(axis=2, keepdims=True) > 0
    soft = random.uniform(1, 6) * OVERSIZE
    mask = flower_canvas.soften(changed.astype(np.float32), soft)[..., None]
    blurred = flower_canvas.soften(canvas.pixels, soft)
    canvas.pixels[...] = sharp * (1 - mask) + blurred * mask


def draw(kind: str, seed: int, number: int) -> Image:
    """Draw photo `number` of a kind: uint8 [height, width, 3], RGB.

    It has about 320 x 240 pixels; one photo in five is upright.
    """
    key = (seed, KINDS.index(kind), number)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    height, width = int(random.integers(225, 256)), int(random.integers(300, 341))
    if random.random() < 0.2:
        height, width = width, height
    height, width = height * OVERSIZE, width * OVERSIZE
    canvas = _background(random, height, width)
    draw_flower, weights = flower_kinds.KINDS[kind]
    chances = np.array(weights) / sum(weights)
    main_colour = COLOURS[random.choice(len(COLOURS), p=chances)]
    for pose in _poses(random, min(height, width), width):
        colour = np.clip(main_colour + random.normal(0, 16, 3), 0, 255)
        canvas.shadow(pose.centre + pose.radius * 0.12, pose.radius)
        draw_flower(canvas, pose, colour)
    if random.random() < 0.5:
        _blades(canvas, int(random.integers(2, 9)))
    if random.random() < 0.35:
        _leaf_in_front(canvas)
    return flower_canvas.photograph(canvas)
