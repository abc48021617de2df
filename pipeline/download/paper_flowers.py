"""Draw a data set of paper flowers, whose kinds differ in their petals, from a seed.

Background, size, turn, colours, light, blur and the grass in front vary from photo to
photo. So neither colour nor the outline of the whole picture gives the kind away.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np

from pipeline.download import flower_archive
from pipeline.images import opencv
from pipeline.system import command_line, file_system, process_pool
from pipeline.system.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

_OVERSIZE = 2  # everything is drawn at twice the size and then halved: smooth edges
# Petal colours, RGB: white, yellow, orange, red, pink, magenta, violet, blue.
_COLOURS = np.array(
    [
        *((244, 240, 232), (240, 205, 60), (236, 138, 48), (206, 44, 44)),
        *((232, 128, 170), (168, 56, 140), (124, 84, 184), (84, 110, 206)),
    ]
)
_GREEN = np.array([74, 124, 57])
# Meadow, wood in the dark, bark, plaster and sky.
_BACKGROUNDS = np.array(
    [(74, 112, 52), (38, 62, 44), (128, 92, 62), (196, 188, 172), (132, 170, 206)]
)
_ANGLES = np.linspace(0, 2 * np.pi, 24)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_SPOT = np.array([0.62, 0])  # the lightest point of a petal


def _rotation(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _petal(width: float, roundness: float, start: float = 0.0) -> Array:
    """Return the outline of a petal from `start` to 1 along x, `width` to either side.

    It is widest near the base if `roundness` is below 1, near the tip if it is above.
    """
    along = np.linspace(0, 1, 14)
    half = width * np.sin(np.pi * along**roundness) ** 0.8
    side = np.stack([start + (1 - start) * along, half], axis=1)
    return np.concatenate([side, side[::-1] * (1, -1)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pose:
    """Position of a flower or leaf; its points have a radius of 1 before `place`."""

    centre: Array  # (x, y), in pixels
    radius: float  # in pixels
    turn: float  # in radians
    tilt: float = 1.0  # foreshortening; 1 is seen from the front
    axis: float = 0.0  # direction that the tilt leaves unchanged, in radians

    @functools.cached_property
    def _matrix(self) -> Array:
        squeeze = _rotation(self.axis) @ np.diag([1, self.tilt]) @ _rotation(-self.axis)
        return np.asarray(self.radius * squeeze @ _rotation(self.turn))

    def place(self, points: Array, angle: float = 0.0) -> Array:
        """Turn points by an angle, and return their pixels."""
        return np.asarray(points @ (self._matrix @ _rotation(angle)).T + self.centre)


class _Canvas:
    """Pixels to draw on, float32 [height, width, 3], RGB, 0..255."""

    def __init__(self, pixels: Array, random: np.random.Generator) -> None:
        self.pixels, self.random = pixels, random
        self.size = np.array(pixels.shape[1::-1])

    def fill(self, points: Array, colour: Any) -> None:
        """Fill a polygon, whose points are pixels."""
        fixed = np.round(points * 16).astype(np.int32)
        scalar = np.clip(colour, 0, 255).tolist()
        cv2.fillPoly(self.pixels, [fixed], scalar, cv2.LINE_AA, 4)

    def petal(self, pose: _Pose, outline: Array, angle: float, colour: Any) -> None:
        """Fill a petal, from a dark rim and base to a light middle."""
        light = 1 + self.random.normal(0, 0.06)
        points, spot = pose.place(outline, angle), pose.place(_SPOT, angle)
        for size, shade in ((1, 0.62), (0.93, 0.84), (0.7, 0.95), (0.42, 1.04)):
            self.fill((points - spot) * size + spot, colour * shade * light)

    def whorl(
        self, pose: _Pose, outline: Array, colour: Any, count: int, phase: float = 0.0
    ) -> None:
        """Draw petals around a centre."""
        turns = np.arange(count) + self.random.normal(0, 0.04, count)
        lengths = self.random.normal(1, 0.04, count)
        for turn, length in zip(turns, lengths, strict=True):
            angle = phase + 2 * np.pi * turn / count
            self.petal(pose, outline * length, angle, colour)

    def eye(self, pose: _Pose, radius: float, colour: Any) -> None:
        """Draw a grainy disc in the middle of a flower."""
        self.fill(pose.place(_CIRCLE * radius), np.multiply(colour, 0.7))
        for number in range(70):
            place = radius * np.sqrt(number / 70) * _rotation(2.4 * number)[0]
            shaded = np.multiply(colour, self.random.uniform(0.75, 1.15))
            self.fill(pose.place(_CIRCLE * radius * 0.1 + place), shaded)

    def leaf(self, root: Array, length: float, angle: float, width: float) -> None:
        """Draw a leaf, a stem or a blade of grass."""
        pose = _Pose(centre=root, radius=length, turn=angle)
        green = _GREEN * self.random.uniform(0.5, 1.3)
        self.petal(pose, _petal(width, 1), 0, green)

    def grass(self, count: int) -> None:
        """Draw blades of grass, from the lower edge upwards."""
        for _ in range(count):
            root = self.size * (self.random.uniform(0, 1), 1.02)
            angle = self.random.normal(-np.pi / 2, 0.3)
            self.leaf(root, self.size[1] * self.random.uniform(0.1, 0.6), angle, 0.02)

    def stem(self, pose: _Pose) -> None:
        """Draw a stem that hangs down from a flower, with two leaves."""
        down = np.pi / 2 + self.random.normal(0, 0.15)
        length = pose.radius * self.random.uniform(2, 3.2)
        self.leaf(pose.centre, length, down, 0.025)
        for side in (-1, 1):
            share, angle = self.random.uniform(0.4, 0.9), self.random.uniform(2, 2.7)
            root = pose.centre + length * share * _rotation(down)[:, 0]
            self.leaf(root, pose.radius, down + side * angle, 0.14)


def _aster(canvas: _Canvas, pose: _Pose, colour: Array) -> None:
    """Draw many thin petals around a large disc."""
    outline = _petal(canvas.random.uniform(0.055, 0.085), 0.75, 0.2)
    count = int(canvas.random.integers(16, 30))
    canvas.whorl(pose, outline, colour * 0.88, count, 0.1)
    canvas.whorl(pose, outline * 0.94, colour, count)
    canvas.eye(pose, canvas.random.uniform(0.24, 0.32), (226, 172, 40))


def _poppy(canvas: _Canvas, pose: _Pose, colour: Array) -> None:
    """Draw four to six broad petals that overlap, around a dark eye."""
    count = int(canvas.random.integers(4, 7))
    outline = _petal(canvas.random.uniform(0.5, 0.62), 0.55)
    canvas.whorl(pose, outline, colour, count)
    canvas.whorl(pose, _petal(0.3, 0.7) * 0.5, colour * 0.55, count, 0.2)
    canvas.eye(pose, 0.15, (60, 54, 48))


def _lily(canvas: _Canvas, pose: _Pose, colour: Array) -> None:
    """Draw six pointed petals in two whorls, and long stamens."""
    outline = _petal(canvas.random.uniform(0.2, 0.27), 1.2)
    canvas.whorl(pose, outline, colour * 0.86, 3, np.pi / 3)
    canvas.whorl(pose, outline, colour, 3)
    stamens = np.array([206, 214, 150])
    canvas.whorl(pose, _petal(0.05, 1.5) * 0.55, stamens, 6, np.pi / 6)


def _tulip(canvas: _Canvas, pose: _Pose, colour: Array) -> None:
    """Draw a cup from the side: petals that close upwards, on a stem."""
    canvas.stem(pose)
    up = canvas.random.normal(-np.pi / 2, 0.35)
    upright = _Pose(centre=pose.centre, radius=pose.radius, turn=up)
    outline = _petal(0.36, 0.8) - (0.45, 0)
    spread = canvas.random.uniform(0.16, 0.42)
    for angle, shade in ((0, 0.7), (-spread, 0.86), (spread, 0.86)):
        canvas.petal(upright, outline * 1.25, angle, colour * shade)
    canvas.petal(upright, outline * 1.05, 0.04, colour)


def _globe(canvas: _Canvas, pose: _Pose, colour: Array) -> None:
    """Draw a ball of many small stars on a stem, like the flower of garlic."""
    canvas.stem(pose)
    count = int(canvas.random.integers(45, 75))
    for number in range(count):
        distance = 0.92 * np.sqrt(1 - number / count)
        place = distance * _rotation(2.4 * number)[:1]  # as seeds of a sunflower lie
        floret = _Pose(
            centre=pose.place(place)[0],
            radius=pose.radius * canvas.random.uniform(0.17, 0.23),
            turn=canvas.random.uniform(0, 2 * np.pi),
        )
        shade = 0.66 + 0.4 * np.sqrt(1 - distance**2) - 0.12 * place[0, 1]
        canvas.whorl(floret, _petal(0.17, 1), colour * shade, 5)


KINDS: dict[str, Callable[[_Canvas, _Pose, Array], None]] = {
    "aster": _aster,
    "globe": _globe,
    "lily": _lily,
    "poppy": _poppy,
    "tulip": _tulip,
}


def _background(random: np.random.Generator, height: int, width: int) -> _Canvas:
    """Return a canvas of graded colour with grass or lights, noise and blur."""
    kind = int(random.integers(len(_BACKGROUNDS)))
    top = _BACKGROUNDS[kind] * random.uniform(0.6, 1.25) + random.normal(0, 14, 3)
    bottom = top * random.uniform(0.55, 1.1) + random.normal(0, 10, 3)
    column = np.linspace(top, bottom, height, dtype=np.float32)
    canvas = _Canvas(np.repeat(column[:, None], width, axis=1), random)
    if kind in (0, 4):
        canvas.grass(int(random.integers(20, 80)))
    for _ in range(int(random.integers(8, 26)) if kind == 1 else 0):
        centre, radius = canvas.size * random.random(2), random.uniform(0.02, 0.09)
        colour = 0.35 * random.choice(_COLOURS) + (39, 58, 39)
        canvas.fill(centre + _CIRCLE * radius * width, colour)
    for cell_px, strength in ((40, 16), (6, 5)):
        cells = (height // cell_px, width // cell_px)
        noise = random.normal(0, strength * random.uniform(0.5, 1.2), cells)
        enlarged = cv2.resize(noise.astype(np.float32), (width, height))
        canvas.pixels += enlarged[..., None]
    blurred = cv2.GaussianBlur(canvas.pixels, (0, 0), random.uniform(1, 10))
    return _Canvas(np.asarray(blurred), random)


def _photograph(canvas: _Canvas) -> Array:
    """Halve the canvas; add light, colour cast, blur and noise of a camera."""
    random, size = canvas.random, canvas.size // _OVERSIZE
    small = cv2.resize(canvas.pixels, size.tolist(), interpolation=cv2.INTER_AREA)
    small = (np.clip(small, 0, 255) / 255) ** random.uniform(0.65, 1.3)
    small *= random.uniform(0.75, 1.15) * random.normal(1, 0.05, 3)
    small = cv2.GaussianBlur(small, (0, 0), random.uniform(0.2, 1.6))
    noise = random.normal(0, random.uniform(0.004, 0.03), small.shape)
    return np.clip((small + noise) * 255 + 0.5, 0, 255).astype(np.uint8)


def draw(kind: str, seed: int, number: int) -> Array:
    """Draw photo `number` of a kind: uint8 [height, width, 3], RGB.

    It has about 320 x 240 pixels; one photo in five is upright.
    """
    random = np.random.default_rng((seed, [*KINDS].index(kind), number))
    sides = [int(random.integers(225, 256)), int(random.integers(300, 341))]
    height, width = sides[::-1] if random.random() < 0.2 else sides
    canvas = _background(random, height * _OVERSIZE, width * _OVERSIZE)
    colour = random.choice(_COLOURS)
    count = int(random.choice([1, 2, 3, 5], p=[0.5, 0.2, 0.2, 0.1]))
    for _ in range(count):
        share = random.uniform(0.55, 1) * 0.45 / np.sqrt(count)  # of the short side
        margin = 0.6 * share
        pose = _Pose(
            centre=canvas.size * random.uniform(margin, 1 - margin, 2),
            radius=share * canvas.size.min(),
            turn=random.uniform(0, 2 * np.pi),
            tilt=random.uniform(0.55, 1),
            axis=random.uniform(0, np.pi),
        )
        KINDS[kind](canvas, pose, colour + random.normal(0, 16, 3))
    canvas.grass(int(random.integers(0, 9)))
    return _photograph(canvas)


def draw_missing(target: Path, *, images_per_class: int, seed: int) -> int:
    """Draw the photos of a data set that are missing, and return their number."""
    names = {
        f"{kind}/{kind}_{number:04d}.jpg"
        for kind in KINDS
        for number in range(images_per_class)
    }
    files = flower_archive.files_below(target)
    if foreign := sorted(files - names):
        raise DataError(
            f"{target}: has other files, such as {foreign[0]}. Choose an empty folder"
        )
    if files:
        name = min(files)
        if (target / name).read_bytes() != photo(name, seed):
            raise DataError(
                f"{target}: {name} is not what --seed={seed} draws. Choose an empty "
                "folder, or the seed it was drawn with"
            )
    for kind in KINDS:
        (target / kind).mkdir(parents=True, exist_ok=True)
    missing = sorted(names - files)
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


def photo(name: str, seed: int) -> bytes:
    """Return the photo with a name such as aster/aster_0012.jpg."""
    kind, number = Path(name).stem.split("_")
    drawn = draw(kind, seed, int(number))
    return opencv.page_jpeg(drawn, quality=90)


def _draw_block(target: Path, seed: int, block: Sequence[str]) -> Sequence[str]:
    for name in block:
        with file_system.replacing(target / name) as partial:
            partial.write_bytes(photo(name, seed))
    return block


def _raise_crash(name: str) -> NoReturn:
    raise DataError(f"{name}: the process that draws this photo has crashed")
