"""Servers on loopback for tests, and models that answer at once."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from hrnet_d2.serving import Category, Limits, Model, create_app
from hrnet_d2.serving.server import bind, build_server

CATEGORIES = (Category(7, "cat"), Category(9, "dog"))


@dataclass
class Answer:
    """Of a request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Client:
    """One connection for each request, as curl makes it."""

    port: int

    def request(self, method, path, body=None, headers=None, timeout=60) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path, **options) -> Answer:
        return self.request("GET", path, **options)

    def post(self, body, query="", **options) -> Answer:
        return self.request("POST", "/predict" + query, body, **options)


def instances_of(image: np.ndarray) -> Instances:
    """Two detections that tell the image: its size, and its first pixel as a score."""
    height, width = image.shape[:2]
    found = Instances((height, width))
    found.pred_boxes = Boxes(torch.tensor([[0, 0, width, height], [1, 2, 5.5, 6.25]]))
    found.scores = torch.tensor([0.5 + float(image[0, 0, 0]) / 512, 0.25])
    found.pred_classes = torch.tensor([1, 0])
    found.pred_masks = torch.zeros(2, height, width, dtype=torch.bool)
    found.pred_masks[0, 1:3, 2:6] = True
    return found


def fake_model(predict=None, categories=CATEGORIES, name="fake.pth") -> Model:
    """A model; ``predict`` is called with the images of each batch and may raise."""

    def run(images: Sequence[np.ndarray]) -> list[dict]:
        if predict is not None:
            predict(images)
        return [{"instances": instances_of(image)} for image in images]

    return Model(name, run, categories, masks=True, device="cpu")


def picture(value=0, height=20, width=30, suffix=".png") -> bytes:
    """The file of an image of one gray."""
    image = np.full((height, width, 3), value, np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


@contextlib.contextmanager
def serving(model: Model, limits: Limits | None = None, names=()) -> Iterator[Client]:
    """A server in a thread, until the end of the block."""
    limits = limits or Limits(stop_seconds=5)
    taken = bind("127.0.0.1", 0)
    started = threading.Event()
    server = build_server(create_app(model, limits, names), limits, started.set)
    thread = threading.Thread(target=server.run, args=([taken],))
    thread.start()
    try:
        assert started.wait(30)
        yield Client(taken.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        taken.close()
    assert not thread.is_alive()
