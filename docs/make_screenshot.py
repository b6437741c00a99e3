#!/usr/bin/env python
"""Make the pictures of the report and of the live page, taken by Chromium without a window.

    make demo
    python docs/make_screenshot.py --report output/demo/inference/shapes_val/report.html
    python docs/make_picture.py --output output/coins
    hrnet-d2 serve output/coins/model_final.pth &
    python docs/make_screenshot.py --page http://127.0.0.1:8000 --image docs/images/coins.png

Chromium is Debian's package ``chromium``; nothing is loaded from the network. The live page also
needs Playwright (``pip install playwright``), which gives it an image.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "images"
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
    browser = find_browser()
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        command += ["--virtual-time-budget=5000", f"--screenshot={picture.resolve()}"]
        command.append(f"{report.resolve().as_uri()}?{choices}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode or not picture.is_file():
        raise RuntimeError(f"{browser} wrote no picture: {done.stderr[-500:]}")


def take_live(
    address: str, image: Path, picture: Path, width: int, height: int, choices: str = ""
) -> None:
    """Write the live page with the detections of an image as a JPEG.

    Args:
        address: of ``hrnet-d2 serve``.
        image: the file to choose on the page.
        picture, width, height: see :func:`take`.
        choices: what the page shows, as ``theme=dark&threshold=0.7``.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = {"executable_path": find_browser(), "args": ["--no-sandbox"]}
        browser = playwright.chromium.launch(**options)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(f"{address}/?{choices}")
        page.set_input_files("#file", image)
        page.wait_for_selector("#work[data-state=done]", timeout=120_000)
        page.screenshot(path=picture, type="jpeg", quality=88)
        browser.close()


def find_browser() -> str:
    """
    Raises:
        FileNotFoundError: if no browser is installed.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError("Chromium is not installed: apt-get install chromium")
    return browser


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--report", type=Path, help="the HTML file")
    what.add_argument("--page", help="the address of a live page, which is given --image")
    parser.add_argument("--image", type=Path, default=PICTURES / "coins.png")
    parser.add_argument("--output", type=Path, help="default: report.png, serve.jpg of docs/images")
    parser.add_argument("--size", type=int, nargs=2, default=(1240, 820), metavar="PIXELS")
    parser.add_argument("--choices", default="theme=light", help="theme=dark&view=confident ...")
    args = parser.parse_args()
    output = args.output or PICTURES / ("report.png" if args.report else "serve.jpg")
    output.unlink(missing_ok=True)
    if args.report:
        take(args.report, output, *args.size, args.choices)
    else:
        take_live(args.page.rstrip("/"), args.image, output, *args.size, args.choices)
    size = output.stat().st_size
    print(f"{output}: {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        print(f"That is more than {MOST_BYTES / 1000:.0f} kB: give a smaller --size")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
