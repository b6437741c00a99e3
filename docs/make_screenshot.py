#!/usr/bin/env python
"""Make README's picture of the report: its first screen, taken by Chromium without a window.

    make demo
    python docs/make_screenshot.py --report output/demo/inference/shapes_val/report.html

Chromium is Debian's package ``chromium``; nothing is loaded from the network.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 200_000  # of a picture that everyone who clones the repository downloads


def take(report: Path, picture: Path, width: int, height: int, choices: str = "") -> None:
    """Write the first screen of a report as a PNG.

    Args:
        report: the HTML file.
        picture: the file to write.
        width, height: of the window, in pixels.
        choices: what the page shows, as ``theme=dark&view=confident``.

    Raises:
        FileNotFoundError: if no browser is installed.
        RuntimeError: if the browser wrote no picture.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError("Chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        command += ["--virtual-time-budget=5000", f"--screenshot={picture.resolve()}"]
        command.append(f"{report.resolve().as_uri()}?{choices}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode or not picture.is_file():
        raise RuntimeError(f"{browser} wrote no picture: {done.stderr[-500:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, required=True, help="the HTML file")
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--size", type=int, nargs=2, default=(1240, 820), metavar="PIXELS")
    parser.add_argument("--choices", default="theme=light", help="theme=dark&view=confident ...")
    args = parser.parse_args()
    args.output.unlink(missing_ok=True)
    take(args.report, args.output, *args.size, args.choices)
    size = args.output.stat().st_size
    print(f"{args.output}: {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        print(f"That is more than {MOST_BYTES / 1000:.0f} kB: give a smaller --size")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
