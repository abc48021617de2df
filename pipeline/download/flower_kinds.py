"""Draw the kinds of paper flowers.

They differ in number, shape and layout of their petals; their colours overlap.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.download import flower_canvas
from pipeline.download.flower_canvas import Canvas, Points

# Petal colours, RGB; each kind prefers some and may have any.
COLOURS = np.array(
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
class Pose:
    """Position of a flower and the direction from which it is seen."""

    centre: Points  # (x, y), in pixels
    radius: float  # from the centre to the tips of the petals, in pixels
    turn: float  # in the plane of the canvas, in radians
    tilt: float = 1.0  # foreshortening; 1 is seen from the front, less from the side
    tilt_axis: float = 0.0  # direction that the tilt leaves unchanged, in radians

    def place(self, points: Points) -> Points:
        """Return the pixels of points in flower coordinates, whose radius is 1."""
        axis = _rotation(self.tilt_axis)
        tilted = _rotate(points, self.turn) @ axis * np.array([1.0, self.tilt]) @ axis.T
        return np.asarray(tilted * self.radius + self.centre)


def _rotation(angle: float) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _rotate(points: Points, angle: float) -> Points:
    return np.asarray(points @ _rotation(angle).T)


def _spread(number: int, distance: float) -> tuple[Points, float]:
    """Return place [1, 2] and angle of a seed, arranged as in a sunflower."""
    angle = number * 2.39996
    return distance * flower_canvas.on_circle(np.array([angle])), angle


def petal(width: float, roundness: float, start: float = 0.1) -> Points:
    """Return the outline of a petal from `start` to 1 along x.

    `width` is half its width. It is widest near the base if `roundness` is below 1, and
    near the tip if it is above 1.
    """
    along = np.linspace(0, 1, 14)
    half = width * np.sin(np.pi * along**roundness) ** 0.8
    x = start + (1 - start) * along
    upper, lower = np.stack([x, half], 1), np.stack([x, -half], 1)[::-1]
    return np.concatenate([upper, lower])


def fill_petal(
    canvas: Canvas, pose: Pose, outline: Points, angle: float, colour: Any
) -> None:
    """Fill a petal, from a dark rim and base to a light middle."""
    light = 1 + canvas.random.normal(0, 0.06)
    spot = np.array([0.62, 0.0])
    for size, shade in ((1.0, 0.62), (0.93, 0.84), (0.7, 0.95), (0.42, 1.04)):
        scaled = (outline - spot) * size + spot
        points = pose.place(_rotate(scaled, angle))
        canvas.polygon(points, np.clip(colour * shade * light, 0, 255))


def _whorl(
    canvas: Canvas, pose: Pose, colour: Any, count: int, outline: Points, phase: float
) -> None:
    """Draw petals around a centre."""
    for number in range(count):
        jitter = canvas.random.normal(0, 0.25 / count)
        angle = phase + 2 * np.pi * number / count + jitter
        length = 1 + canvas.random.normal(0, 0.04)
        fill_petal(canvas, pose, outline * length, angle, colour)


def _stem(canvas: Canvas, pose: Pose, length: float) -> None:
    """Draw a stem that hangs down from the flower, with up to two leaves."""
    random = canvas.random
    along = np.linspace(0, length, 12)
    sway = random.normal(0, 0.5) * (along / length) ** 2
    # Stems follow gravity, not the turn of the flower.
    points = pose.centre + pose.radius * np.stack([sway, along], 1)
    green = np.array([70, 122, 58]) * random.uniform(0.7, 1.2)
    canvas.line(points, green, pose.radius * 0.09)
    for _ in range(int(random.integers(0, 3))):
        root = points[random.integers(4, 11)]
        angle = -np.pi / 2 + random.choice([-1, 1]) * random.uniform(0.4, 1.2)
        radius = pose.radius * random.uniform(0.7, 1.3)
        leaf = Pose(centre=root, radius=radius, turn=angle)
        fill_petal(canvas, leaf, petal(0.14, 1.0, 0), 0, green)


def _aster(canvas: Canvas, pose: Pose, colour: Any) -> None:
    """Draw many thin petals around a large, grainy disc."""
    random = canvas.random
    outline = petal(random.uniform(0.055, 0.085), 0.75, 0.2)
    count = int(random.integers(16, 30))
    _whorl(canvas, pose, colour * 0.88, count, outline, 0.1)
    _whorl(canvas, pose, colour, count, outline * 0.94, 0)
    _disc_of_grains(canvas, pose, random.uniform(0.24, 0.32), (226, 172, 40))


def _disc_of_grains(canvas: Canvas, pose: Pose, radius: float, colour: Any) -> None:
    angles = np.linspace(0, 2 * np.pi, 30)
    ring = flower_canvas.on_circle(angles) * radius
    canvas.polygon(pose.place(ring), np.array(colour) * 0.7)
    for number in range(70):
        place, _ = _spread(number, radius * np.sqrt((number + 0.5) / 70))
        shaded = np.array(colour) * canvas.random.uniform(0.75, 1.15)
        size = pose.radius * radius * 0.1
        canvas.disc(pose.place(place)[0], size, np.clip(shaded, 0, 255))


def _poppy(canvas: Canvas, pose: Pose, colour: Any) -> None:
    """Draw four to six broad, crumpled petals that overlap, around a dark eye."""
    random = canvas.random
    count = int(random.integers(4, 7))
    outline = petal(random.uniform(0.5, 0.62), 0.55, 0)
    crumple = 1 + random.normal(0, 0.025, (len(outline), 1))
    _whorl(canvas, pose, colour, count, outline * crumple, 0)
    _whorl(canvas, pose, colour * 0.55, count, petal(0.3, 0.7, 0) * 0.5, 0.2)
    _disc_of_grains(canvas, pose, 0.15, (60, 54, 48))


def _lily(canvas: Canvas, pose: Pose, colour: Any) -> None:
    """Draw six pointed petals in two whorls, long stamens and freckles."""
    random = canvas.random
    outline = petal(random.uniform(0.2, 0.27), 1.2, 0)
    _whorl(canvas, pose, colour * 0.86, 3, outline, np.pi / 3)
    _whorl(canvas, pose, colour, 3, outline, 0)
    for number in range(6):
        angle = np.pi * number / 3
        for _ in range(4):
            place = np.array([[random.uniform(0.25, 0.6), random.normal(0, 0.06)]])
            freckle = pose.place(_rotate(place, angle))[0]
            canvas.disc(freckle, pose.radius * 0.02, colour * 0.5)
        angle += np.pi / 6 + random.normal(0, 0.1)
        line = pose.place(_rotate(np.array([[0, 0], [0.5, 0]]), angle))
        canvas.line(line, (206, 214, 150), pose.radius * 0.035)
        canvas.disc(line[1], pose.radius * 0.06, (126, 66, 30))


def _tulip(canvas: Canvas, pose: Pose, colour: Any) -> None:
    """Draw a cup from the side: pointed petals that close upwards, on a stem."""
    random = canvas.random
    turn = -np.pi / 2 + random.normal(0, 0.35)
    upright = dataclasses.replace(pose, turn=turn, tilt=1.0)
    _stem(canvas, upright, random.uniform(2, 3.2))
    outline = petal(0.36, 0.8, 0) - np.array([0.45, 0.0])
    open_by = random.uniform(0.16, 0.42)
    for angle, shade in ((0, 0.7), (-open_by, 0.86), (open_by, 0.86), (0.04, 1.0)):
        size = 1.25 if shade < 1 else 1.05
        fill_petal(canvas, upright, outline * size, angle, colour * shade)


def _globe(canvas: Canvas, pose: Pose, colour: Any) -> None:
    """Draw a ball of many small stars on a stem, like the flower of garlic."""
    random = canvas.random
    _stem(canvas, pose, random.uniform(2, 3.2))
    count = int(random.integers(45, 75))
    outline = petal(0.17, 1.0, 0)
    for number in range(count):
        distance = 0.92 * np.sqrt(1 - number / count)
        place, angle = _spread(number, distance)
        floret = Pose(
            centre=pose.place(place)[0],
            radius=pose.radius * random.uniform(0.17, 0.23),
            turn=random.uniform(0, 6.3),
            tilt=random.uniform(0.6, 1),
            tilt_axis=angle,
        )
        shade = 0.66 + 0.4 * np.sqrt(1 - distance**2) - 0.12 * place[0, 1]
        for petal_number in range(5):
            points = floret.place(_rotate(outline, petal_number * 2 * np.pi / 5))
            canvas.polygon(points, np.clip(colour * shade, 0, 255))
        canvas.disc(floret.centre, floret.radius * 0.2, colour * shade * 0.5)


# Kind -> function that draws it, and weight of each of COLOURS.
KINDS: dict[str, tuple[Callable[[Canvas, Pose, Any], None], tuple[float, ...]]] = {
    "aster": (_aster, (4, 3, 1, 1, 3, 1, 2, 1)),
    "globe": (_globe, (2, 1, 1, 1, 2, 3, 4, 2)),
    "lily": (_lily, (3, 2, 4, 2, 3, 1, 1, 0)),
    "poppy": (_poppy, (1, 3, 3, 4, 2, 1, 1, 1)),
    "tulip": (_tulip, (2, 3, 2, 4, 2, 2, 1, 0)),
}
