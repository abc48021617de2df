"""Open a page of many photos to review in Chromium, and answer for photos by key.

    python benchmarks/review_page.py [FOLDER] [--photos=2000] [--keys=100]

Prints the size of the page, the seconds until it is loaded and its first photos are
shown, and the milliseconds from the press of a key to the next frame. Photos repeat if
FOLDER has fewer. Needs chromium, chromedriver and selenium.
"""

import tempfile
import time
from pathlib import Path

import measure
import numpy as np

from pipeline.images import opencv
from pipeline.system import html_templates
from tests.support import browser, review_pages

_SIDE_PX = 256  # as pipeline.check has
_MEASURE = """
window.taken = [];
addEventListener("keydown", (event) => requestAnimationFrame(() => {
  const channel = new MessageChannel();
  const start = event.timeStamp;
  channel.port1.onmessage = () => window.taken.push(performance.now() - start);
  channel.port2.postMessage(0);
}), true);
"""
_SHOWN = """
const images = [...document.querySelectorAll("img[data-photo][src]")];
return performance.timing.loadEventEnd > 0 && images.length > 0 &&
  images.every((image) => image.complete && image.naturalWidth);
"""


def write_page(folder: Path, photos: Path, count: int) -> Path:
    """Write a page of `count` photos of a folder of class folders."""
    paths = sorted(path for path in photos.glob("*/*") if path.is_file())
    classes = sorted({path.parent.name for path in paths})
    shown, pictures = [], {}
    for number in range(count):
        path = paths[number % len(paths)]
        jpeg = opencv.thumbnail_jpeg(path.read_bytes(), _SIDE_PX)
        pictures[str(number)] = html_templates.picture_url(jpeg)
        name = f"{path.parent.name}/{number:05d}-{path.name}"
        shown.append(
            {
                "path": name,
                "label": path.parent.name,
                "suggested": classes[number % len(classes)],
                "sha256": f"{number:064x}",
            }
        )
    return review_pages.write(folder, shown, classes, pictures=pictures)


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--photos", type=int, default=2000, help="photos (2000)")
    parser.add_argument("--keys", type=int, default=100, help="presses of keys (100)")
    options = parser.parse_args()
    from selenium.webdriver import Keys

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(Path(folder), options.folder, options.photos)
        for name, width, height in (("desktop", 1280, 900), ("phone", 390, 800)):
            with browser.opened(width, height) as driver:
                driver.get("about:blank")
                start = time.perf_counter()
                driver.get(page.as_uri())
                while not driver.execute_script(_SHOWN):
                    time.sleep(0.01)
                load_s = time.perf_counter() - start
                driver.execute_script(_MEASURE)
                body = driver.find_element("css selector", "body")
                body.send_keys(Keys.ARROW_RIGHT)
                for number in range(options.keys):
                    driver.switch_to.active_element.send_keys("rx12"[number % 4])
                time.sleep(0.5)  # until the last frame is measured, too
                taken_ms = np.array(driver.execute_script("return window.taken"))
                text = driver.find_element("css selector", "#review-count").text
                if len(taken_ms) <= options.keys or "0 of" in text[:4]:
                    raise SystemExit(f"{name}: keys were not answered: {text}")
            rows.append(
                (
                    name,
                    f"{page.stat().st_size / 1e6:.1f}",
                    f"{load_s:.2f}",
                    f"{np.median(taken_ms):.0f}",
                    f"{taken_ms.max():.0f}",
                )
            )
    header = ("screen", "page, MB", "load, s", "key, ms (median)", "key, ms (most)")
    measure.print_table(f"{options.photos:,} photos to review", [header, *rows])


if __name__ == "__main__":
    main()
