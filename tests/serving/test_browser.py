"""The live page in Debian's Chromium: an image is dropped, the threshold moved, JSON downloaded."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from hrnet_d2.serving import Category, Limits
from tests.serving.servers import fake_model, picture, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# Of the console: that the server refused an image or is gone, which the page tells too; and how
# these tests read the canvas.
EXPECTED = re.compile("status of 4|CONNECTION_REFUSED|getImageData")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield found
        found.close()


@pytest.fixture
def open_page(browser):
    """Opens a page, whose errors fail the test."""
    pages, problems = [], []

    def open_it(client, query="", **options):
        page = browser.new_page(viewport={"width": 1200, "height": 800}, **options)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda m: (
                problems.append(m.text)
                if m.type in ("error", "warning") and not EXPECTED.search(m.text)
                else None
            ),
        )
        pages.append(page)
        page.goto(f"http://127.0.0.1:{client.port}/{query}")
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield open_it
    for page in pages:
        page.close()
    assert not problems


@pytest.fixture(scope="module")
def client():
    with serving(fake_model(), Limits(image_bytes=500_000, stop_seconds=5)) as found:
        yield found


DROP = """
    ([name, type, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, {type}));
        for (const kind of ['dragenter', 'dragover', 'drop']) {
            document.querySelector('#stage').dispatchEvent(new DragEvent(kind,
                {bubbles: true, cancelable: true, dataTransfer: transfer}));
        }
    }
"""


def drop(page, body, name="a photo.png", kind="image/png", state="done"):
    page.evaluate(DROP, [name, kind, list(body)])
    page.wait_for_selector(f"#work[data-state={state}]")


def pixel(page, x, y):
    """Red, green, blue and opacity of the overlay at a place given as shares of the image."""
    return page.evaluate(
        """([x, y]) => {
            const c = document.getElementById('overlay');
            return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data];
        }""",
        [x, y],
    )


def set_threshold(page, value):
    page.locator("#threshold").fill(str(value))


def test_drop_threshold_and_download(client, open_page, tmp_path):
    page = open_page(client)
    assert page.is_visible("#prompt") and not page.is_visible("#results")
    drop(page, picture(128))  # scores 0.75 (dog, with a mask) and 0.25 (cat)
    assert page.text_content("#count") == "1" and "a photo.png, 30 \u00d7 20" in page.text_content(
        "#words"
    )
    assert page.locator("#list li").all_text_contents() == ["dog30 \u00d7 200.75"]
    # The mask covers columns 2 to 5 of 30 and rows 1 and 2 of 20.
    assert pixel(page, 3.5 / 30, 1.9 / 20)[3] > 60 and pixel(page, 9.5 / 30, 9.5 / 20)[3] == 0

    set_threshold(page, 0.2)
    assert page.text_content("#count") == "2"
    with page.expect_download() as waiting:
        page.click("#save-json")
    assert waiting.value.suggested_filename == "a photo.json"
    waiting.value.save_as(tmp_path / "a.json")
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved["annotations"] == client.post(picture(128)).json["annotations"]
    assert saved["images"][0]["file_name"] == "a photo.png"

    set_threshold(page, 0.5)
    with page.expect_download() as waiting:
        page.click("#save-json")
    waiting.value.save_as(tmp_path / "b.json")
    assert [a["score"] for a in json.loads((tmp_path / "b.json").read_text())["annotations"]] == [
        0.75
    ]
    with page.expect_download() as waiting:
        page.click("#save-picture")
    waiting.value.save_as(tmp_path / "b.png")
    drawn = cv2.imread(str(tmp_path / "b.png"))
    assert drawn.shape == (20, 30, 3) and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 2

    set_threshold(page, 0.9)
    assert page.text_content("#count") == "0" and "show the best, 0.75" in page.text_content(
        "#words"
    )
    page.click("#words button")
    assert page.text_content("#count") == "1" and page.input_value("#threshold") == "0.75"


def test_boxes_masks_and_classes_can_be_hidden(client, open_page):
    page = open_page(client, "?threshold=0.2")
    drop(page, picture(128))
    inside, edge = (3.5 / 30, 1.9 / 20), (0.995, 0.5)
    assert pixel(page, *edge)[3] > 100
    page.uncheck("#checks label:has-text('boxes') input")
    assert pixel(page, *edge)[3] < 100 and pixel(page, *inside)[3] > 60
    page.uncheck("#checks label:has-text('masks') input")
    page.uncheck("#checks label:has-text('labels') input")
    assert pixel(page, *inside)[3] == 0
    page.click("#classes button:has-text('dog')")
    assert page.text_content("#count") == "1"
    assert page.locator("#list li").all_text_contents() == ["cat5 \u00d7 40.25"]


def test_errors_are_told_and_the_next_image_works(client, open_page):
    page = open_page(client)
    drop(page, b"no image", state="error")
    assert "This is no image" in page.text_content("#error")
    assert page.is_visible("#prompt") and not page.is_visible("#results")
    drop(page, bytes(600_000), state="error")
    assert "0.6 MB" in page.text_content("#error") and "0.5 MB" in page.text_content("#error")
    drop(page, picture(128))
    assert not page.is_visible("#error") and page.text_content("#count") == "1"


def test_a_server_that_is_gone_is_told(open_page):
    with serving(fake_model(), Limits(stop_seconds=1)) as client:
        page = open_page(client)
    page.evaluate(DROP, ["a.png", "image/png", list(picture())])
    page.wait_for_selector("#error:has-text('does not answer')")
    page.context.set_offline(True)
    assert page.is_visible("#error button:has-text('Try again')")


def test_an_image_that_only_the_server_decodes(client, open_page):
    page = open_page(client)
    drop(page, picture(128, suffix=".tiff"), "a.tiff", "image/tiff")
    assert page.text_content("#count") == "1"
    assert page.evaluate("document.getElementById('frame').classList.contains('blank')")


def test_the_camera(client, open_page):
    page = open_page(client, "?threshold=0.2", permissions=["camera"])
    page.click("#camera")
    page.wait_for_selector("#words:has-text('images/s')")
    assert page.text_content("#count") == "2" and page.is_visible("#video")
    page.click("#camera-again")
    assert not page.is_visible("#video")
    page.wait_for_timeout(500)
    drop(page, picture(128))
    assert "a photo.png" in page.text_content("#words")


def test_light_and_dark(client, open_page):
    page = open_page(client, color_scheme="dark")
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.click("#theme")
    assert page.evaluate(theme) == "light"
    page.reload()
    assert page.evaluate(theme) == "light"


def test_hostile_names(open_page):
    name = "<img src=x onerror=\"document.body.title='taken'\">"
    model = fake_model(categories=(Category(1, name), Category(2, f"</script>{name}")), name=name)
    with serving(model, Limits(stop_seconds=5)) as client:
        page = open_page(client, "?threshold=0.1")
        drop(page, picture(128), name=f"{name}.png")
        assert page.locator("#list li").count() == 2 and "<img" in page.text_content("#list")
        assert page.locator("img").count() == 1 and not page.evaluate("document.body.title")
        assert name in page.text_content("h1")


def test_masks_are_drawn_where_they_are(open_page):
    """The script's own decoder against pycocotools, on shapes with holes and at every border."""
    import pycocotools.mask as mask_util

    rng = np.random.default_rng(0)
    masks = [np.zeros((37, 53), np.uint8) for _ in range(6)]
    masks[0][:] = 1
    masks[1][0, :] = masks[1][-1, :] = masks[1][:, 0] = 1
    masks[2][5:30, 7:40] = 1
    masks[2][10:20, 15:25] = 0
    masks[3][-1, -1] = 1
    masks[4][:] = rng.integers(0, 2, masks[4].shape)
    masks[5] = cv2.resize(rng.integers(0, 2, (4, 6), np.uint8), (53, 37), interpolation=0)
    with serving(fake_model()) as client:
        page = open_page(client)
        for mask in masks:
            rle = mask_util.encode(np.asfortranarray(mask))
            rle = {"size": rle["size"], "counts": rle["counts"].decode()}
            drawn = page.evaluate(
                """(rle) => {
                    const r = rasterOf(rle);
                    const place = {left: r.left * r.columns, top: r.top * r.rows};
                    return {...r, ...place, pixels: [...r.pixels]};
                }""",
                rle,
            )
            whole = np.zeros_like(mask)
            left, top = round(drawn["left"]), round(drawn["top"])
            part = np.array(drawn["pixels"]).reshape(drawn["height"], drawn["width"])
            whole[top : top + drawn["height"], left : left + drawn["width"]] = part
            assert np.array_equal(whole, mask)
