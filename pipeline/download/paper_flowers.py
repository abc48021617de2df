"""A seed -> a data set of drawn flowers: the demo that needs no download.

Five kinds differ in number, shape and layout of their petals; their colours overlap,
and background, size, turn, light, blur and what hangs in front of them vary from photo
to photo. So neither colour nor the outline of the whole picture gives the kind away.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

Image = np.ndarray[Any, np.dtype[Any]]
Points = np.ndarray[Any, np.dtype[np.float64]]

# Everything is drawn at twice the size and then halved, which smooths all edges.
_OVERSIZE = 2

# Petal colours, RGB; each kind prefers some and may have any.
_COLOURS = np.array(
    [
        (244, 240, 232),  # white
        (240, 205, 60),  # yellow
        (236, 138, 48),  # orange
        (206, 44, 44),  # red
        (232, 128, 170),  # pink
        (168, 56, 140),  # magenta
        (124, 84, 184),  # violet
        (84, 110, 206),  # blue
    ],
    np.float64,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Brush:
    """Canvas and chance of one photo."""

    canvas: Image  # float32 [height, width, 3], RGB, 0..255
    random: np.random.Generator

    def polygon(self, points: Points, colour: Any) -> None:
        """Fills a polygon; points are (x, y) in canvas pixels."""
        fixed = np.round(points * 16).astype(np.int32)
        cv2.fillPoly(self.canvas, [fixed], tuple(map(float, colour)), cv2.LINE_AA, 4)

    def line(self, points: Points, colour: Any, width: float) -> None:
        """Draws an open line."""
        fixed = np.round(points * 16).astype(np.int32)
        thickness = max(1, round(width))
        cv2.polylines(
            self.canvas,
            [fixed],
            False,
            tuple(map(float, colour)),
            thickness,
            cv2.LINE_AA,
            4,
        )

    def disc(self, centre: Points, radius: float, colour: Any) -> None:
        """Fills a circle."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([np.cos(angles), np.sin(angles)], 1) * radius
        self.polygon(centre + ring, colour)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pose:
    """Where a flower is and how it is seen."""

    centre: Points  # (x, y)
    radius: float
    turn: float  # radians
    tilt: float  # 1: seen from the front; less: from the side
    tilt_axis: float  # radians

    def place(self, points: Points) -> Points:
        """Flower coordinates, radius 1, to canvas pixels."""
        turned = points @ _rotation(self.turn).T
        axis = _rotation(self.tilt_axis)
        tilted = turned @ axis * np.array([1.0, self.tilt]) @ axis.T
        return np.asarray(tilted * self.radius + self.centre)


def _rotation(angle: float) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _petal(width: float, roundness: float, start: float = 0.1) -> Points:
    """Outline of a petal from `start` to 1 along x.

    Args:
        width: largest half-width.
        roundness: below 1 the widest place lies near the tip, above 1 near the base.
        start: where it leaves the centre.
    """
    along = np.linspace(0, 1, 14)
    half = width * np.sin(np.pi * along**roundness) ** 0.8
    x = start + (1 - start) * along
    upper, lower = np.stack([x, half], 1), np.stack([x, -half], 1)[::-1]
    return np.concatenate([upper, lower])


def _shaded_petal(
    brush: _Brush, pose: _Pose, outline: Points, angle: float, colour: Any
) -> None:
    """Fills a petal from a dark rim and base to a light middle."""
    light = 1 + brush.random.normal(0, 0.06)
    spot = np.array([0.62, 0.0])
    for size, shade in ((1.0, 0.62), (0.93, 0.84), (0.7, 0.95), (0.42, 1.04)):
        scaled = (outline - spot) * size + spot
        points = pose.place(scaled @ _rotation(angle).T)
        brush.polygon(points, np.clip(colour * shade * light, 0, 255))


def _whorl(
    brush: _Brush,
    pose: _Pose,
    colour: Any,
    *,
    count: int,
    outline: Points,
    phase: float = 0,
) -> None:
    """Petals around a centre."""
    for number in range(count):
        jitter = brush.random.normal(0, 0.25 / count)
        angle = phase + 2 * np.pi * number / count + jitter
        length = 1 + brush.random.normal(0, 0.04)
        _shaded_petal(brush, pose, outline * length, angle, colour)


def _stem(brush: _Brush, pose: _Pose, length: float) -> None:
    """A stem that hangs down from the flower, with a leaf or two."""
    random = brush.random
    bend = random.normal(0, 0.5)
    along = np.linspace(0, length, 12)
    sway = bend * (along / length) ** 2
    # Stems follow gravity, not the turn of the flower.
    points = pose.centre + pose.radius * np.stack([sway, along], 1)
    green = np.array([70, 122, 58]) * random.uniform(0.7, 1.2)
    brush.line(points, green, pose.radius * 0.09)
    for _ in range(int(random.integers(0, 3))):
        root = points[random.integers(4, 11)]
        angle = -np.pi / 2 + random.choice([-1, 1]) * random.uniform(0.4, 1.2)
        leaf = _Pose(
            centre=root,
            radius=pose.radius * random.uniform(0.7, 1.3),
            turn=angle,
            tilt=1,
            tilt_axis=0,
        )
        _shaded_petal(brush, leaf, _petal(0.14, 1.0, 0), 0, green)


def _aster(brush: _Brush, pose: _Pose, colour: Any) -> None:
    """Many thin petals around a large, grainy disc."""
    random = brush.random
    outline = _petal(random.uniform(0.055, 0.085), 0.75, 0.2)
    count = int(random.integers(16, 30))
    _whorl(brush, pose, colour * 0.88, count=count, outline=outline, phase=0.1)
    _whorl(brush, pose, colour, count=count, outline=outline * 0.94)
    _disc_of_grains(brush, pose, random.uniform(0.24, 0.32), (226, 172, 40))


def _disc_of_grains(brush: _Brush, pose: _Pose, radius: float, colour: Any) -> None:
    angles = np.linspace(0, 2 * np.pi, 30)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) * radius
    brush.polygon(pose.place(ring), np.array(colour) * 0.7)
    for number in range(70):
        distance = radius * np.sqrt((number + 0.5) / 70)
        angle = number * 2.39996
        at = distance * np.array([[np.cos(angle), np.sin(angle)]])
        shade = brush.random.uniform(0.75, 1.15)
        brush.disc(
            pose.place(at)[0],
            pose.radius * radius * 0.1,
            np.clip(np.array(colour) * shade, 0, 255),
        )


def _poppy(brush: _Brush, pose: _Pose, colour: Any) -> None:
    """Four to six broad, crumpled petals that overlap, around a dark eye."""
    random = brush.random
    count = int(random.integers(4, 7))
    outline = _petal(random.uniform(0.5, 0.62), 0.55, 0)
    crumple = 1 + random.normal(0, 0.025, (len(outline), 1))
    _whorl(brush, pose, colour, count=count, outline=outline * crumple)
    inner = _petal(0.3, 0.7, 0) * 0.5
    _whorl(brush, pose, colour * 0.55, count=count, outline=inner, phase=0.2)
    _disc_of_grains(brush, pose, 0.15, (60, 54, 48))


def _lily(brush: _Brush, pose: _Pose, colour: Any) -> None:
    """Six pointed petals in two whorls, long stamens, freckles."""
    random = brush.random
    outline = _petal(random.uniform(0.2, 0.27), 1.2, 0)
    _whorl(brush, pose, colour * 0.86, count=3, outline=outline, phase=np.pi / 3)
    _whorl(brush, pose, colour, count=3, outline=outline)
    for number in range(6):
        angle = np.pi * number / 3
        for _ in range(4):
            at = np.array([[random.uniform(0.25, 0.6), random.normal(0, 0.06)]])
            freckle = pose.place(at @ _rotation(angle).T)[0]
            brush.disc(freckle, pose.radius * 0.02, colour * 0.5)
        angle += np.pi / 6 + random.normal(0, 0.1)
        tip = np.array([[0, 0], [0.5, 0]]) @ _rotation(angle).T
        line = pose.place(tip)
        brush.line(line, (206, 214, 150), pose.radius * 0.035)
        brush.disc(line[1], pose.radius * 0.06, (126, 66, 30))


def _tulip(brush: _Brush, pose: _Pose, colour: Any) -> None:
    """A cup seen from the side: pointed petals that close upwards, on a stem."""
    random = brush.random
    upright = dataclasses.replace(
        pose, turn=-np.pi / 2 + random.normal(0, 0.35), tilt=1.0
    )
    _stem(brush, upright, random.uniform(2, 3.2))
    outline = _petal(0.36, 0.8, 0) - np.array([0.45, 0.0])
    open_by = random.uniform(0.16, 0.42)
    for angle, shade in ((0, 0.7), (-open_by, 0.86), (open_by, 0.86), (0.04, 1.0)):
        size = 1.25 if shade < 1 else 1.05
        _shaded_petal(brush, upright, outline * size, angle, colour * shade)


def _globe(brush: _Brush, pose: _Pose, colour: Any) -> None:
    """A ball of many small stars, as of garlic, on a stem."""
    random = brush.random
    _stem(brush, pose, random.uniform(2, 3.2))
    count = int(random.integers(45, 75))
    outline = _petal(0.17, 1.0, 0)
    for number in range(count):
        distance = 0.92 * np.sqrt(1 - number / count)
        angle = number * 2.39996
        at = distance * np.array([[np.cos(angle), np.sin(angle)]])
        floret = _Pose(
            centre=pose.place(at)[0],
            radius=pose.radius * random.uniform(0.17, 0.23),
            turn=random.uniform(0, 6.3),
            tilt=random.uniform(0.6, 1),
            tilt_axis=angle,
        )
        shade = 0.66 + 0.4 * np.sqrt(1 - distance**2) - 0.12 * at[0, 1]
        for petal in range(5):
            points = floret.place(outline @ _rotation(petal * 2 * np.pi / 5).T)
            brush.polygon(points, np.clip(colour * shade, 0, 255))
        brush.disc(floret.centre, floret.radius * 0.2, colour * shade * 0.5)


# Kind -> how it is drawn, and how often it has each of _COLOURS.
KINDS: dict[str, tuple[Callable[[_Brush, _Pose, Any], None], tuple[float, ...]]] = {
    "aster": (_aster, (4, 3, 1, 1, 3, 1, 2, 1)),
    "globe": (_globe, (2, 1, 1, 1, 2, 3, 4, 2)),
    "lily": (_lily, (3, 2, 4, 2, 3, 1, 1, 0)),
    "poppy": (_poppy, (1, 3, 3, 4, 2, 1, 1, 1)),
    "tulip": (_tulip, (2, 3, 2, 4, 2, 2, 1, 0)),
}


def _background(random: np.random.Generator, height: int, width: int) -> Image:
    """Meadow, bokeh, wood, plaster or sky; float32 [height, width, 3], RGB."""
    bases = np.array(
        [(74, 112, 52), (38, 62, 44), (128, 92, 62), (196, 188, 172), (132, 170, 206)]
    )
    kind = int(random.integers(len(bases)))
    top = bases[kind] * random.uniform(0.6, 1.25) + random.normal(0, 14, 3)
    bottom = top * random.uniform(0.55, 1.1) + random.normal(0, 10, 3)
    ramp = np.linspace(0, 1, height)[:, None, None]
    column = (top * (1 - ramp) + bottom * ramp).astype(np.float32)
    canvas: Image = np.repeat(column, width, axis=1)
    brush = _Brush(canvas=canvas, random=random)
    if kind in (0, 4):
        _blades(brush, int(random.integers(40, 160)))
    elif kind == 1:
        _bokeh(brush)
    stretch = (width // 8, height // 48) if kind == 2 else (width // 16, height // 12)
    for size, strength in ((stretch, 16.0), ((width // 3, height // 3), 5.0)):
        strength *= random.uniform(0.5, 1.2)
        grain = random.normal(0, strength, (max(2, size[1]), max(2, size[0])))
        canvas += cv2.resize(grain.astype(np.float32), (width, height))[..., None]
    return _soften(canvas, random.uniform(0.5, 5) * _OVERSIZE)


def _soften(canvas: Image, sigma: float) -> Image:
    """Blurs; wide blurs at a smaller size, which looks the same and is faster."""
    height, width = canvas.shape[:2]
    factor = max(1, int(sigma / 1.5))
    size = (max(1, width // factor), max(1, height // factor))
    small = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    return np.asarray(cv2.resize(small, (width, height)))


def _blades(brush: _Brush, count: int) -> None:
    """Blades of grass, from the lower edge upwards."""
    height, width = brush.canvas.shape[:2]
    for _ in range(count):
        root = np.array([brush.random.uniform(0, width), height * 1.02])
        tip = root + brush.random.normal(0, 1, 2) * (width / 8, height / 6)
        tip[1] -= height * brush.random.uniform(0.1, 0.6)
        middle = (root + tip) / 2 + brush.random.normal(0, 10, 2)
        green = np.array([84, 128, 56]) * brush.random.uniform(0.5, 1.4)
        line = np.stack([root, middle, tip])
        brush.line(line, np.clip(green, 0, 255), brush.random.uniform(2, 7))


def _bokeh(brush: _Brush) -> None:
    """Discs of light, far out of focus."""
    height, width = brush.canvas.shape[:2]
    for _ in range(int(brush.random.integers(8, 26))):
        centre = brush.random.uniform(0, 1, 2) * (width, height)
        colour = _COLOURS[brush.random.integers(len(_COLOURS))]
        mixed = 0.35 * colour + 0.65 * np.array([60, 90, 60])
        brush.disc(centre, brush.random.uniform(0.02, 0.09) * width, mixed)


def _poses(random: np.random.Generator, height: int, width: int) -> list[_Pose]:
    """One flower, or a few smaller ones."""
    count = int(random.choice([1, 2, 3, 5], p=[0.5, 0.2, 0.2, 0.1]))
    largest = {1: 0.42, 2: 0.3, 3: 0.25, 5: 0.2}[count]
    poses = []
    for _ in range(count):
        radius = height * random.uniform(0.55, 1.0) * largest
        margin = min(0.45, 0.6 * radius / height)
        where = random.uniform(margin, 1 - margin, 2)
        poses.append(
            _Pose(
                centre=where * (width, height),
                radius=radius,
                turn=random.uniform(0, 2 * np.pi),
                tilt=random.uniform(0.55, 1),
                tilt_axis=random.uniform(0, np.pi),
            )
        )
    return poses


def _photograph(random: np.random.Generator, canvas: Image) -> Image:
    """Light, colour cast, vignette, blur and noise of a camera."""
    height, width = canvas.shape[:2]
    small = cv2.resize(
        canvas,
        (width // _OVERSIZE, height // _OVERSIZE),
        interpolation=cv2.INTER_AREA,
    )
    height, width = small.shape[:2]
    small = np.clip(small, 0, 255) / 255
    small = small ** random.uniform(0.65, 1.3) * random.uniform(0.75, 1.15)
    small *= random.normal(1, 0.05, 3)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    centre = random.uniform(-0.4, 0.4, 2)
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    small *= (1 - random.uniform(0, 0.28) * distance)[..., None]
    if random.random() < 0.5:
        small = cv2.GaussianBlur(small, (0, 0), random.uniform(0.4, 1.6))
    small += random.normal(0, random.uniform(0.004, 0.03), small.shape)
    return np.clip(small * 255 + 0.5, 0, 255).astype(np.uint8)


def _leaf_in_front(brush: _Brush) -> None:
    """A large leaf that hangs into the picture, out of focus."""
    random = brush.random
    height, width = brush.canvas.shape[:2]
    side = random.choice([-1, 1])
    leaf = _Pose(
        centre=np.array([width * (0.5 - 0.55 * side), height * random.uniform(0, 1)]),
        radius=width * random.uniform(0.3, 0.5),
        turn=(0 if side > 0 else np.pi) + random.normal(0, 0.4),
        tilt=1.0,
        tilt_axis=0.0,
    )
    sharp = brush.canvas.copy()
    green = np.array([72, 118, 54]) * random.uniform(0.6, 1.3)
    _shaded_petal(brush, leaf, _petal(random.uniform(0.1, 0.2), 1.0, 0), 0, green)
    changed = np.abs(brush.canvas - sharp).sum(axis=2, keepdims=True) > 0
    soft = random.uniform(1, 6) * _OVERSIZE
    mask = _soften(changed.astype(np.float32), soft)[..., None]
    blurred = _soften(brush.canvas, soft)
    brush.canvas[...] = sharp * (1 - mask) + blurred * mask


def draw(kind: str, seed: int, number: int) -> Image:
    """Draws one photo.

    Args:
        kind: one of KINDS.
        seed: of the data set.
        number: of the photo within its kind.

    Returns:
        uint8 [height, width, 3], RGB, about 320 x 240 pixels, one in five upright.
    """
    key = (seed, list(KINDS).index(kind), number)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    height, width = int(random.integers(225, 256)), int(random.integers(300, 341))
    if random.random() < 0.2:
        height, width = width, height
    height, width = height * _OVERSIZE, width * _OVERSIZE
    canvas = _background(random, height, width)
    brush = _Brush(canvas=canvas, random=random)
    paint, weights = KINDS[kind]
    chances = np.array(weights) / sum(weights)
    main_colour = _COLOURS[random.choice(len(_COLOURS), p=chances)]
    for pose in _poses(random, min(height, width), width):
        colour = np.clip(main_colour + random.normal(0, 16, 3), 0, 255)
        shadow = dataclasses.replace(pose, centre=pose.centre + pose.radius * 0.12)
        _cast_shadow(brush, shadow)
        paint(brush, pose, colour)
    if random.random() < 0.5:
        _blades(brush, int(random.integers(2, 9)))
    if random.random() < 0.35:
        _leaf_in_front(brush)
    return _photograph(random, canvas)


def _cast_shadow(brush: _Brush, pose: _Pose) -> None:
    """A soft dark patch behind a flower."""
    mask = np.zeros(brush.canvas.shape[:2], np.float32)
    centre = tuple(int(value) for value in pose.centre)
    cv2.circle(mask, centre, int(pose.radius * 0.8), 1.0, -1)
    mask = _soften(mask, max(1.0, pose.radius * 0.18))
    brush.canvas[...] *= (1 - 0.3 * mask)[..., None]


def encode(image: Image) -> bytes:
    """Encodes an RGB image as JPEG of quality 90."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, 90]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    if not done:
        raise RuntimeError("OpenCV could not encode a drawn image")
    return bytes(data)
