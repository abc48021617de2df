"""Draw shapes on a canvas, blur it and turn it into a photo."""

import dataclasses
from typing import Any

import cv2
import numpy as np

Image = np.ndarray[Any, np.dtype[Any]]
Points = np.ndarray[Any, np.dtype[np.float64]]

# Everything is drawn at twice the size and then halved, which smooths all edges.
OVERSIZE = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Canvas:
    """Pixels to draw on, and the random numbers of one photo.

    Points are (x, y) in pixels of the canvas.
    """

    pixels: Image  # float32 [height, width, 3], RGB, 0..255
    random: np.random.Generator

    def polygon(self, points: Points, colour: Any) -> None:
        """Fill a polygon."""
        fixed = np.round(points * 16).astype(np.int32)
        cv2.fillPoly(self.pixels, [fixed], tuple(map(float, colour)), cv2.LINE_AA, 4)

    def line(self, points: Points, colour: Any, width: float) -> None:
        """Draw an open line."""
        fixed = np.round(points * 16).astype(np.int32)
        style = (tuple(map(float, colour)), max(1, round(width)), cv2.LINE_AA, 4)
        cv2.polylines(self.pixels, [fixed], False, *style)

    def disc(self, centre: Points, radius: float, colour: Any) -> None:
        """Fill a circle."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.polygon(centre + on_circle(angles) * radius, colour)

    def shadow(self, centre: Points, radius: float) -> None:
        """Darken a soft round patch."""
        mask = np.zeros(self.pixels.shape[:2], np.float32)
        cv2.circle(mask, tuple(map(int, centre)), int(radius * 0.8), 1.0, -1)
        mask = soften(mask, max(1.0, radius * 0.18))
        self.pixels[...] *= (1 - 0.3 * mask)[..., None]

    def grain(self, columns: int, rows: int, strength: float) -> None:
        """Add grey noise from a grid of cells, enlarged to the canvas."""
        height, width = self.pixels.shape[:2]
        noise = self.random.normal(0, strength, (max(2, rows), max(2, columns)))
        enlarged = cv2.resize(noise.astype(np.float32), (width, height))
        self.pixels[...] += enlarged[..., None]


def on_circle(angles: Points) -> Points:
    """Return the points of a circle of radius 1 at angles in radians, float64 [n]."""
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def soften(pixels: Image, sigma: float) -> Image:
    """Blur; wide blurs at a smaller size, which looks the same and is faster."""
    height, width = pixels.shape[:2]
    factor = max(1, int(sigma / 1.5))
    size = (max(1, width // factor), max(1, height // factor))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    return np.asarray(cv2.resize(small, (width, height)))


def photograph(canvas: Canvas) -> Image:
    """Halve the canvas; add light, colour cast, blur and noise of a camera."""
    random = canvas.random
    height, width = (length // OVERSIZE for length in canvas.pixels.shape[:2])
    small = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
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


def encode(image: Image) -> bytes:
    """Encode an RGB image as JPEG of quality 90."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, 90]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    return bytes(data)
