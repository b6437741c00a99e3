import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from hrnet_d2.data import ImageReadError, SizeMismatchError, read_image
from hrnet_d2.data.image_io import check_image_size, read_label_map


@pytest.fixture
def picture():
    """Smooth, so that JPEG keeps it nearly."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
def test_channel_order(tmp_path, picture, backend):
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, picture)
    np.testing.assert_array_equal(read_image(path, "BGR", backend), picture)
    np.testing.assert_array_equal(read_image(path, "RGB", backend), picture[:, :, ::-1])


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation(tmp_path, picture, orientation, backend):
    exif = Image.Exif()
    exif[274] = orientation
    path = str(tmp_path / "a.jpg")
    Image.fromarray(picture[:, :, ::-1]).save(path, exif=exif, quality=100)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]  # counter-clockwise quarters
    upright = np.rot90(picture, turns)
    image = read_image(path, "BGR", backend)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "I;16"])
def test_any_image_has_three_channels(tmp_path, mode):
    path = str(tmp_path / "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((8, 9), 128 * 257, np.uint16)).save(path)
    else:
        Image.new("RGB", (9, 8), (128, 128, 128)).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (8, 9, 3) and image.dtype == np.uint8


def test_missing_file(tmp_path):
    for backend in ("opencv", "detectron2"):
        with pytest.raises(FileNotFoundError, match="nowhere.jpg does not exist"):
            read_image(str(tmp_path / "nowhere.jpg"), backend=backend)


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.97])
def test_cut_short(tmp_path, part, extension, backend):
    noise = np.random.RandomState(0).randint(0, 256, (64, 80, 3)).astype(np.uint8)
    data = cv2.imencode(extension, noise)[1].tobytes()
    path = tmp_path / f"broken{extension}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageReadError, match=f"broken{extension} cannot be decoded"):
        read_image(str(path), backend=backend)


def test_cut_jpeg_is_found_without_opencv(tmp_path, picture, monkeypatch):
    """OpenCV 4 fills the rest with gray; a thumbnail has an end marker of its own."""
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: picture)
    whole = cv2.imencode(".jpg", picture)[1].tobytes()
    thumbnail = cv2.imencode(".jpg", picture[:8, :8])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = whole[:2] + segment + whole[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data + b"trailing bytes are common")
    assert read_image(str(path)) is picture
    path.write_bytes(data[:-100])
    with pytest.raises(ImageReadError, match="a.jpg"):
        read_image(str(path))


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
def test_jpegs_with_a_video_behind_them(tmp_path, photo, backend, progressive, caplog):
    """As phones save "motion photos"; by chance it has the bytes of markers, and runs of zeros."""
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    whole = cv2.imencode(".jpg", photo, flags)[1].tobytes()
    thumbnail = cv2.imencode(".jpg", photo[:8, :8])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = whole[:2] + segment + whole[2:]
    video = bytes(200) + b"\xff\xda\xff\xd9" + bytes(200) + b"\xff\xda"
    path = tmp_path / "motion.jpg"
    path.write_bytes(whole + video)
    np.testing.assert_array_equal(read_image(str(path), backend=backend), cv2.imread(str(path)))
    assert not caplog.text
    path.write_bytes(whole[:-100])
    with pytest.raises(ImageReadError, match=r"motion.jpg cannot be decoded"):
        read_image(str(path), backend=backend)


def test_not_an_image(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    with pytest.raises(ImageReadError, match="notes.jpg cannot be decoded"):
        read_image(str(path))
    with pytest.raises(ImageReadError, match="cannot be read"):
        read_image(str(tmp_path))


def test_unknown_format_and_backend(tmp_path):
    with pytest.raises(ValueError, match='INPUT.FORMAT.*"detectron2"'):
        read_image(str(tmp_path / "a.jpg"), "YUV-BT.601")
    with pytest.raises(ValueError, match="INPUT.BACKEND.*'skimage'"):
        read_image(str(tmp_path / "a.jpg"), "BGR", "skimage")


def test_label_map(tmp_path):
    labels = np.random.RandomState(0).randint(0, 256, (20, 30)).astype(np.uint8)
    path = str(tmp_path / "labels.png")
    cv2.imwrite(path, labels)
    np.testing.assert_array_equal(read_label_map(path), labels)


def test_label_map_must_be_gray_8_bit(tmp_path):
    path = str(tmp_path / "labels.png")
    labels = (np.arange(48 * 48) % 7).astype(np.uint8).reshape(48, 48)
    Image.fromarray(labels).convert("P").save(path)
    with pytest.raises(ImageReadError, match="labels.png has 3 channel.*Palette"):
        read_label_map(path)
    cv2.imwrite(path, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageReadError, match="3 channel"):
        read_label_map(path)
    cv2.imwrite(path, np.zeros((8, 8), np.uint16))
    with pytest.raises(ImageReadError, match="1 channel.*uint16"):
        read_label_map(path)


def test_image_size():
    image = np.zeros((40, 60, 3), np.uint8)
    record = {"file_name": "a.jpg"}
    check_image_size(record, image)
    assert (record["width"], record["height"]) == (60, 40)
    check_image_size(record, image)
    with pytest.raises(SizeMismatchError, match="a.jpg is 60 x 40.*says 40 x 60.*swapped.*EXIF"):
        check_image_size({"file_name": "a.jpg", "width": 40, "height": 60}, image)
    with pytest.raises(SizeMismatchError, match="a.jpg is 60 x 40.*says 61 x 40.*correct width"):
        check_image_size({"file_name": "a.jpg", "width": 61, "height": 40}, image)


def png(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"tEXt", b"Title\0none")
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
def test_pixel_limit(tmp_path, picture, backend):
    path = tmp_path / "large.png"
    path.write_bytes(png(60000, 60000))
    with pytest.raises(ImageReadError, match="large.png has 60000 x 60000.*INPUT.MAX_PIXELS"):
        read_image(str(path), backend=backend)
    with pytest.raises(ImageReadError, match="large.png has 60000 x 60000.*INPUT.MAX_PIXELS"):
        read_label_map(str(path))
    for suffix in (".jpg", ".png", ".bmp", ".tiff", ".webp"):
        name = str(tmp_path / f"a{suffix}")
        cv2.imwrite(name, picture)
        assert read_image(name, backend=backend, max_pixels=2400).shape == (40, 60, 3)
        with pytest.raises(ImageReadError, match=f"a{suffix} has 60 x 40 pixels"):
            read_image(name, backend=backend, max_pixels=2399)


def test_opencvs_errors_name_the_file(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png(60000, 60000))
    with pytest.raises(ImageReadError, match="large.png cannot be decoded.*OpenCV"):
        read_image(str(path), max_pixels=2**40)


@pytest.fixture
def photo():
    """Noisy, as photographs are, so that its data have no long runs of zeros."""
    y, x = np.mgrid[:240, :320]
    smooth = np.stack([x % 256, y, (x + y) // 3], axis=2)
    return (
        (smooth + np.random.RandomState(0).randint(0, 20, smooth.shape)).clip(0, 255).astype("u1")
    )


@pytest.mark.parametrize("lost", [16, 100, 1000, 5000])
def test_jpegs_with_lost_bytes_are_heard(tmp_path, photo, lost, caplog, capfd):
    data = bytearray(cv2.imencode(".jpg", photo)[1].tobytes())
    middle = len(data) // 2
    data[middle : middle + lost] = bytes(lost)
    path = tmp_path / "lost.jpg"
    path.write_bytes(data)
    image = read_image(str(path))
    np.testing.assert_array_equal(image, cv2.imread(str(path)))
    assert "lost.jpg: " in caplog.text
    read_image(str(path))
    assert caplog.text.count("lost.jpg: the file is damaged") <= 1


@pytest.mark.parametrize("optimize", [0, 1])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_flat_jpegs_are_sound(tmp_path, value, optimize, caplog):
    path = str(tmp_path / "flat.jpg")
    flags = [cv2.IMWRITE_JPEG_OPTIMIZE, optimize]
    cv2.imwrite(path, np.full((1200, 1600, 3), value, np.uint8), flags)
    read_image(path)
    assert not caplog.text


def test_messages_of_threads_name_the_right_files(tmp_path, photo, caplog, capfd):
    whole = cv2.imencode(".jpg", photo)[1].tobytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 16] = bytes(16)
    paths = [tmp_path / f"{i:02d}.jpg" for i in range(60)]
    for i, path in enumerate(paths):
        path.write_bytes(damaged if i % 20 == 7 else whole)

    def read(path):
        os.write(2, f"line of {path.name}\n".encode())
        return read_image(str(path))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, paths))
    read_image(
        str(paths[0])
    )  # a line that was printed at the last moment comes with the next image
    named = {path.name for path in paths if f"{path.name}: the file is damaged" in caplog.text}
    assert named == {"07.jpg", "27.jpg", "47.jpg"}
    errors = capfd.readouterr().err
    assert all(f"line of {path.name}" in errors for path in paths)
    assert "Corrupt JPEG" not in errors.replace(caplog.text, "")


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
def test_checksums_of_pngs(tmp_path, picture, backend, caplog):
    data = bytearray(cv2.imencode(".png", picture)[1].tobytes())
    start = data.index(b"IDAT")
    end = start + 4 + int.from_bytes(data[start - 4 : start], "big")
    data[end] ^= 1
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match="a.png cannot be decoded.*checksum.*IDAT"):
        read_image(str(path), backend=backend)
    data[end] ^= 1
    text = bytearray(struct.pack(">I", 1) + b"tEXta" + bytes(4))
    path.write_bytes(data[:33] + text + data[33:])
    np.testing.assert_array_equal(read_image(str(path)), picture)
    assert "a.png: the checksum of its chunk tEXt" in caplog.text


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 6])
def test_orientations_that_keep_the_size_are_told(tmp_path, picture, orientation, caplog):
    exif = Image.Exif()
    exif[274] = orientation
    path = str(tmp_path / "turned.jpg")
    Image.fromarray(picture).save(path, exif=exif)
    read_image(path)
    assert not caplog.text
    read_image(path, annotated=True)
    assert ("turned.jpg: its Exif orientation" in caplog.text) == (orientation in (2, 3, 4))


def test_what_opencv_logs_is_in_the_error(tmp_path, picture, capfd):
    path = tmp_path / "short.bmp"
    cv2.imwrite(str(path), picture)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageReadError, match="end of input stream"):
        read_image(str(path))
    assert "imdecode" not in capfd.readouterr().err
