"""What is answered, and what is refused with which status."""

import socket
import struct
import threading
import time
import zlib

import pytest

from hrnet_d2.serving import Limits
from hrnet_d2.serving.server import bind, url_of
from tests.serving.servers import fake_model, picture, serving

SMALL = Limits(
    image_bytes=100_000, image_pixels=10_000, upload_seconds=0.5, stop_seconds=5, requests=4
)


@pytest.fixture(scope="module")
def client():
    with serving(fake_model(), SMALL, names=["models.example"]) as found:
        yield found


def png_of_size(width, height):
    """A PNG that says it has this size, with hardly any data."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_an_image_becomes_a_coco_file(client):
    answer = client.post(picture(128))
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json"
    assert answer.json["images"] == [{"id": 1, "file_name": "", "width": 30, "height": 20}]
    assert answer.json["categories"] == [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    first, second = answer.json["annotations"]
    assert first["category_id"] == 9 and first["score"] == 0.75 and first["bbox"] == [0, 0, 30, 20]
    assert second["bbox"] == [1, 2, 4.5, 4.25] and second["category_id"] == 7
    assert first["segmentation"]["size"] == [20, 30] and first["area"] == 8
    assert {a["image_id"] for a in (first, second)} == {1}


def test_pycocotools_reads_the_answer(client, tmp_path):
    from pycocotools.coco import COCO

    path = tmp_path / "answer.json"
    path.write_bytes(client.post(picture()).body)
    coco = COCO(str(path))
    (mask,) = (coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(catIds=[9])))
    assert mask.sum() == 8 and mask[1:3, 2:6].all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif"])
def test_formats(client, suffix):
    answer = client.post(picture(50, suffix=suffix))
    assert answer.status == 200 and answer.json["images"][0]["width"] == 30


def test_options(client):
    found = client.post(picture(128), "?threshold=0.7&masks=false").json["annotations"]
    assert [a["score"] for a in found] == [0.75] and "segmentation" not in found[0]
    assert len(client.post(picture(128), "?threshold=0.75").json["annotations"]) == 1
    wrong = ("threshold=2", "threshold=x", "threshold=nan", "masks=7", "treshold=1")
    for query in (*(f"?{words}" for words in wrong), "?threshold=0.1&threshold=0.9"):
        answer = client.post(picture(), query)
        assert answer.status == 400 == answer.json["status"], query
    assert "there are threshold and masks" in client.post(picture(), "?treshold=1").json["error"]


def form(data, field="image", name="../../etc/a b.png"):
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--x--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def test_forms_are_read_and_no_name_in_them_is_a_path(client):
    answer = client.post(form(picture()), headers=FORM)
    assert answer.status == 200 and answer.json["images"][0]["file_name"] == "a b.png"
    large = form(picture() + bytes(99_000))  # more than one part of a stream; after a PNG's end
    assert client.post(large, headers=FORM).status == 200


@pytest.mark.parametrize(
    "body, headers",
    [
        (b"no form", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n', FORM),
        (form(picture()) + form(picture()), FORM | {"Content-Type": "multipart/form-data"}),
    ],
    ids=["damaged", "no file", "no boundary"],
)
def test_forms_without_an_image_are_refused(client, body, headers):
    answer = client.post(body, headers=headers)
    assert answer.status == 400 and "form" in answer.json["error"]


@pytest.mark.parametrize(
    "body, status, words",
    [
        (b"", 400, "no data"),
        (b"%PDF-1.7 text", 415, "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "JPEG, PNG"),
        (b"P6\n60000 60000\n255\n", 415, "no image"),
        (b"\xff\xd8\xff\xe0", 415, "no image"),
        (picture(suffix=".png")[:-20], 422, "damaged"),
        (picture(suffix=".jpg")[:-20], 422, "damaged"),
        (picture(suffix=".bmp")[:60], 422, "damaged"),
        (png_of_size(60_000, 60_000), 413, "60,000 x 60,000"),
        (png_of_size(101, 100), 413, "0.01 million"),
        (bytes(200_000), 413, "0.1 MB"),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, bytes) else "",
)
def test_what_is_no_good_image_is_refused_by_its_kind(client, body, status, words):
    answer = client.post(body)
    assert answer.status == status and words in answer.json["error"], answer.body
    assert client.post(picture()).status == 200


def test_a_decompression_bomb_is_not_decoded(client, monkeypatch):
    import cv2

    def refuse(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    assert client.post(png_of_size(50_000, 50_000)).status == 413


def send(client, data):
    """A connection of its own, after some bytes were sent."""
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=30)
    connection.sendall(data)
    return connection


def test_a_body_without_length_is_bounded(client):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with send(client, head) as connection:
        part = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        connection.sendall(3 * part)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_slow_upload_is_ended(client):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nabc"
    start = time.monotonic()
    with send(client, head) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - start < 10


def test_a_client_that_would_wait_is_refused_before_it_sends(client):
    """As curl sends larger files: the head first, and the body when it is told to continue."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000000\r\n"
    with send(client, head + b"Expect: 100-continue\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_length_that_is_no_number(client):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e9\r\n\r\n"
    with send(client, head) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_other_methods_and_paths(client):
    assert client.get("/predict").status == 405
    assert "POST" in client.get("/predict").json["error"]
    for path in ("/nothing", "/../../etc/passwd", "/assets/../page.html", "/%2e%2e/secret"):
        answer = client.get(path)
        assert answer.status == 404 and "/predict" in answer.json["error"]
    assert client.request("DELETE", "/health").status == 405


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("192.168.0.7:8000", 200),
        ("models.example", 200),
        ("MODELS.example:80", 200),
        ("evil.example", 421),
        ("models.example.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 400),
    ],
)
def test_the_server_answers_under_its_own_names(client, host, status):
    for answer in (
        client.get("/", headers={"Host": host}),
        client.post(picture(), headers={"Host": host}),
    ):
        assert answer.status == status
        assert status == 200 or host in answer.json["error"]


def test_pages_of_other_origins_are_refused(client):
    own = {"Host": "localhost:80", "Origin": "http://localhost:80", "Sec-Fetch-Site": "same-origin"}
    assert client.post(picture(), headers=own).status == 200
    assert client.post(picture(), headers=own | {"Origin": "http://localhost:3000"}).status == 403
    assert client.post(picture(), headers=own | {"Origin": "null"}).status == 403
    assert client.post(picture(), headers={"Sec-Fetch-Site": "same-site"}).status == 403
    assert client.post(picture(), headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    # A link to the page on another one.
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status == 200
    assert "Access-Control-Allow-Origin" not in client.get("/health").headers


def test_every_answer_restricts_the_browser(client):
    for answer in (client.get("/health"), client.post(b"x"), client.get("/none"), client.get("/")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["Server"] is None


def test_health_and_metrics():
    with serving(fake_model(), SMALL) as client:
        health = client.get("/health")
        assert health.status == 200 and health.json["status"] == "ok"
        assert health.json["model"] == "fake.pth" and health.json["classes"] == 2
        for body in (picture(), picture(), b"no image"):
            client.post(body)
        metrics = client.get("/metrics")
        assert metrics.headers["Content-Type"].startswith("text/plain")
        lines = metrics.body.decode().splitlines()
        assert 'hrnet_d2_requests_total{path="/predict",status="200"} 2.0' in lines
        assert 'hrnet_d2_requests_total{path="/predict",status="415"} 1.0' in lines
        assert "hrnet_d2_detections_total 4.0" in lines
        assert "hrnet_d2_requests_in_flight 0.0" in lines
        assert "hrnet_d2_predict_seconds_count 2.0" in lines
        from prometheus_client.parser import text_string_to_metric_families

        names = {f.name for f in text_string_to_metric_families(metrics.body.decode())}
        assert {"hrnet_d2_batch_images", "hrnet_d2_queue_seconds"} <= names


def test_more_requests_than_the_server_takes_are_answered_at_once():
    go = threading.Event()
    with serving(fake_model(lambda images: go.wait(30)), SMALL) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post(picture())))
            for _ in range(SMALL.requests)
        ]
        for thread in threads:
            thread.start()
        while client.get("/health").json["requests"] < SMALL.requests:
            time.sleep(0.01)
        refused = client.post(picture())
        assert refused.status == 429 and int(refused.headers["Retry-After"]) >= 1
        go.set()
        for thread in threads:
            thread.join()
        assert [a.status for a in answers] == [200] * SMALL.requests
        assert client.post(picture()).status == 200


def test_the_memory_of_uploads_is_bounded():
    """Four uploads of 30 kB are announced and not sent; a fifth does not fit 150 kB."""
    limits = Limits(image_bytes=100_000, body_bytes=150_000, upload_seconds=20, stop_seconds=1)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000\r\n\r\n"
    with serving(fake_model(), limits) as client:
        connections = [send(client, head) for _ in range(4)]
        while client.get("/health").json["requests"] < 4:
            time.sleep(0.01)
        assert client.post(bytes(40_000)).status == 429
        assert client.post(picture()).status == 200
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 10
        while client.get("/health").json["requests"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.post(bytes(90_000)).status == 415


def test_an_answer_that_takes_too_long():
    go = threading.Event()
    limits = Limits(answer_seconds=0.3, stop_seconds=5)
    with serving(fake_model(lambda images: go.wait(30)), limits) as client:
        answer = client.post(picture())
        assert answer.status == 503 and "Retry-After" in answer.headers
        go.set()
        assert client.post(picture()).status == 200


def test_addresses_that_cannot_be_used():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="--port"):
            bind("127.0.0.1", other.getsockname()[1])
    with pytest.raises(OSError, match="no address"):
        bind("no.such.host.invalid", 0)


def test_the_address_that_is_printed():
    with bind("0.0.0.0", 0) as taken:
        assert url_of(taken) == f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_limits_are_positive():
    with pytest.raises(ValueError, match="batch_size is 0"):
        Limits(batch_size=0)


def test_answers_are_not_cached(client):
    assert client.get("/health").headers["Cache-Control"] == "no-store"
