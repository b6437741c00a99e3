"""Requests that come together run together, and none of them spoils another."""

import threading
import time

import numpy as np
import pytest

from hrnet_d2.engine import MemoryExhaustedError
from hrnet_d2.serving import Limits
from tests.serving.servers import fake_model, instances_of, picture, serving


class Gate:
    """A model's work that waits until it is let go, and remembers its batches."""

    def __init__(self, check=None):
        self.go, self.begun, self.batches, self.check = (
            threading.Event(),
            threading.Event(),
            [],
            check,
        )

    def __call__(self, images):
        self.batches.append(len(images))
        self.begun.set()
        assert self.go.wait(30)
        if self.check:
            self.check(images)


def post_all(client, bodies):
    """The answers, in the order of the bodies, which are sent at once."""
    answers = [None] * len(bodies)

    def post(i):
        answers[i] = client.post(bodies[i])

    threads = [threading.Thread(target=post, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    return threads, answers


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def held(gate, client, bodies):
    """Sends a first image, which holds the network, and the others, which wait for it."""
    first, one = post_all(client, [picture(7)])
    assert gate.begun.wait(20)
    threads, answers = post_all(client, bodies)
    wait_for(lambda: client.get("/health").json["queue"] == len(bodies))
    gate.go.set()
    for thread in first + threads:
        thread.join()
    assert one[0].status == 200
    return answers


def test_waiting_images_run_in_one_batch_and_each_has_its_own_answer():
    gate = Gate()
    with serving(fake_model(gate), Limits(batch_size=4, stop_seconds=5)) as client:
        answers = held(gate, client, [picture(10 * i, width=20 + i) for i in range(6)])
    assert gate.batches == [1, 4, 2]
    for i, answer in enumerate(answers):
        assert answer.json["images"][0]["width"] == 20 + i
        expected = instances_of(np.full((20, 20 + i, 3), 10 * i, np.uint8)).scores.tolist()
        assert [a["score"] for a in answer.json["annotations"]] == expected


def test_an_image_that_the_network_refuses_fails_alone():
    def check(images):
        if any(image[0, 0, 0] == 99 for image in images):
            raise ValueError("too thin")

    gate = Gate(check)
    with serving(fake_model(gate), Limits(stop_seconds=5)) as client:
        answers = held(gate, client, [picture(1), picture(99), picture(2)])
        assert client.get("/health").json["status"] == "ok"
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert answers[1].json["error"] == "too thin"


def test_a_batch_has_no_more_pixels_than_one_image_may_have():
    gate = Gate()
    limits = Limits(image_pixels=1000, stop_seconds=5)  # pictures have 600
    with serving(fake_model(gate), limits) as client:
        # Two fit the memory of decoded images: one runs, one waits, the third is not decoded yet.
        first, one = post_all(client, [picture(7)])
        assert gate.begun.wait(20)
        threads, answers = post_all(client, [picture(1), picture(2)])
        wait_for(lambda: client.get("/health").json["requests"] == 3)
        wait_for(lambda: client.get("/health").json["queue"] == 2)
        gate.go.set()
        for thread in first + threads:
            thread.join()
    assert gate.batches == [1, 1, 1]
    assert [answer.status for answer in one + answers] == [200, 200, 200]


def test_the_image_of_a_client_that_went_away_is_not_run():
    import socket

    gate = Gate()
    with serving(fake_model(gate), Limits(stop_seconds=5)) as client:
        threads, answers = post_all(client, [picture(7)])
        assert gate.begun.wait(20)
        body = picture(1)
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head.encode() + body)
            wait_for(lambda: client.get("/health").json["queue"] == 1)
        wait_for(lambda: client.get("/health").json["requests"] == 1)
        gate.go.set()
        threads[0].join()
        assert client.post(picture()).status == 200
    assert gate.batches == [1, 1] and answers[0].status == 200


@pytest.mark.parametrize(
    "error, status, words",
    [
        (RuntimeError("secret path /home/me"), 500, "its log says why"),
        (MemoryExhaustedError("lower it"), 503, "memory"),
    ],
)
def test_a_network_that_fails_is_not_healthy_until_it_works(error, status, words, caplog):
    broken = [True]

    def check(images):
        if broken:
            raise error

    with serving(fake_model(check), Limits(stop_seconds=5)) as client:
        for _ in range(3):
            answer = client.post(picture())
            assert answer.status == status and words in answer.json["error"]
            assert "secret" not in answer.json["error"]
        assert client.get("/health").status == 503
        assert client.get("/health").json["status"] == "failing"
        broken.clear()
        assert client.post(picture()).status == 200
        assert client.get("/health").status == 200
    assert "The network failed" in caplog.text


def test_the_budget_is_given_back():
    """Whatever becomes of requests, nothing stays counted."""
    limits = Limits(image_pixels=1000, requests=8, stop_seconds=5)
    with serving(fake_model(), limits) as client:
        bodies = [picture(1), b"", b"no image", picture()[:-20], picture(width=60)] * 10
        for _ in range(3):
            threads, _ = post_all(client, bodies[:8])
            for thread in threads:
                thread.join()
        assert client.get("/health").json["requests"] == 0
        threads, answers = post_all(client, [picture(width=40)] * 8)
        for thread in threads:
            thread.join()
        assert {answer.status for answer in answers} == {200}
