"""Measure how fast a video is classified, and how much memory that takes.

    python benchmarks/video.py [CLIP] [--run_dir=runs/latest] [--rounds=3]

Without a clip, ffmpeg makes one: 10 minutes of 1080p, H.264, 25 frames a second, a key
frame every 2 seconds. Times the command python -m model.predict --every=1s. The peer is
a program with OpenCV alone, which decodes all frames and converts one a second. Memory
is that of all processes, for the clip and for its first tenth.
"""

import subprocess
import tempfile
from pathlib import Path

import measure

_MAKE = [
    "ffmpeg",
    "-y",
    "-loglevel",
    "error",
    "-f",
    "lavfi",
    "-i",
    "testsrc2=size=1920x1080:rate=25",
    "-t",
    "600",
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-g",
    "50",
]
_SECONDS = (
    "import cv2, sys; c = cv2.VideoCapture(sys.argv[1]); print(c.get(7) / c.get(5))"
)
_OPENCV = """
import sys, cv2
capture, time_s = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG), 0
while capture.grab():
    if capture.get(cv2.CAP_PROP_POS_MSEC) >= 1000 * time_s:
        capture.retrieve()
        time_s += 1
"""


def main() -> None:
    """Print the tables."""
    parser = measure.argument_parser(__doc__, photos=False, rounds=3)
    parser.add_argument("clip", nargs="?", default="", help="a video; default: made")
    parser.add_argument("--run_dir", default="runs/latest", help="run to predict with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip, start = options.clip, f"{folder}/start.mkv"
        if not clip:
            clip = f"{folder}/clip.mp4"
            subprocess.run([*_MAKE, clip], check=True)
        duration_s = float(measure.run_python("-c", _SECONDS, clip))
        cut = [
            "ffmpeg",
            "-loglevel",
            "error",
            "-i",
            clip,
            "-t",
            f"{duration_s / 10:.0f}",
        ]
        subprocess.run([*cut, "-c", "copy", start], check=True)
        graft = ("-m", "model.predict", "--every=1s", f"--run_dir={options.run_dir}")
        times = measure.run_rounds(
            {
                "OpenCV's decoder alone": lambda: measure.time_python(
                    "-c", _OPENCV, clip
                ),
                "graft: model.predict": lambda: measure.time_python(*graft, clip),
            },
            options.rounds,
        )
        speeds = {n: [duration_s / t for t in values] for n, values in times.items()}
        rows = measure.rate_rows(speeds, next(iter(times)))
        rows[0][1] = "video s / s"
        title = f"Frames of {Path(clip).name}, {duration_s:.0f} s, one a second"
        measure.print_table(title, rows)
        for path in (start, clip):
            peak_mb = measure.peak_memory(*graft, path) / 1e6
            print(f"peak memory, {Path(path).name}: {peak_mb:,.0f} MB")


if __name__ == "__main__":
    main()
