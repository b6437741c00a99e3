"""The web application: the page, ``POST /predict``, ``/health`` and ``/metrics``."""

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .batching import Batcher
from .budget import Budget
from .decoding import check_size, decode
from .errors import SERVER_FAILED, RequestError
from .guard import Guard, check_request
from .metrics import Metrics
from .model import Model
from .page import build_live_page
from .results import to_json
from .settings import Limits
from .uploads import TrackedBody, announced_bytes, most_bytes, read_upload

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

DECODERS = 2  # threads
GONE = 499  # in the metrics: the client went away before its answer
BUSY = "The server has more requests than it takes at once: try again"
BOOLEANS = {"1": True, "true": True, "0": False, "false": False}

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(model: Model, limits: Limits | None = None, names: Sequence[str] = ()) -> Starlette:
    """The application of a model.

    Args:
        model: of :func:`~hrnet_d2.serving.load_model`.
        limits: default: those of :class:`~hrnet_d2.serving.Limits`.
        names: under which the server may be reached, beside "localhost" and addresses; "*" is any.
    """
    service = _Service(model, limits or Limits(), names)
    routes = [
        Route("/", service.guarded("/", service.page), methods=["GET"]),
        Route("/predict", service.guarded("/predict", service.predict), methods=["POST"]),
        Route("/health", service.guarded("/health", service.health), methods=["GET"]),
        Route("/metrics", service.guarded("/metrics", service.show_metrics), methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard)],
        lifespan=service.lifespan,
        exception_handlers={HTTPException: _http_error},
    )


class _Service:
    """What the endpoints share."""

    def __init__(self, model: Model, limits: Limits, names: Sequence[str]):
        self.model, self.limits, self.names = model, limits, names
        self.metrics = Metrics()
        self.live_page = build_live_page(model, limits)
        self.bodies = Budget(limits.body_bytes)
        self.pixels = Budget(2 * limits.image_pixels)
        self.requests = Budget(limits.requests)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Start the thread of the network, and end it."""
        self.decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self.batcher = Batcher(self.model, self.limits, self.metrics)
        running = asyncio.create_task(self.batcher.run())
        try:
            yield
        finally:
            running.cancel()
            self.batcher.close()
            self.decoders.shutdown(wait=False, cancel_futures=True)

    def guarded(self, path: str, endpoint: Endpoint) -> Endpoint:
        """An endpoint behind the checks of the request, whose errors are answered as JSON."""

        async def checked(request: Request) -> Response:
            body = TrackedBody(request)
            request = Request(request.scope, body.receive)
            status = GONE
            try:
                check_request(request, self.names)
                response = await endpoint(request)
                status = response.status_code
            except RequestError as error:
                status = error.status
                response = _error(error.status, str(error), error.headers)
                if await body.abandon():
                    response.headers["Connection"] = "close"
            except ClientDisconnect:
                response = Response(status_code=400)  # nobody reads it
            except Exception:
                logger.exception("%s failed", path)
                status = 500
                response = _error(500, SERVER_FAILED, {"Connection": "close"})
            finally:
                self.metrics.requests.labels(path, str(int(status))).inc()
            return response

        return checked

    async def page(self, request: Request) -> Response:
        """``GET /``"""
        return HTMLResponse(
            self.live_page.html, headers={"Content-Security-Policy": self.live_page.policy}
        )

    async def health(self, request: Request) -> Response:
        """``GET /health``: status 200 if requests are answered, else 503."""
        works = self.batcher.works
        about = {
            "status": "ok" if works else "failing",
            "model": self.model.name,
            "classes": len(self.model.categories),
            "masks": self.model.masks,
            "device": self.model.device,
            "requests": self.requests.used,
            "queue": self.batcher.waiting,
        }
        return JSONResponse(about, status_code=200 if works else 503)

    async def show_metrics(self, request: Request) -> Response:
        """``GET /metrics``"""
        self.metrics.in_flight.set(self.requests.used)
        self.metrics.queue.set(self.batcher.waiting)
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def predict(self, request: Request) -> Response:
        """``POST /predict``: from an image to COCO's JSON."""
        start = time.perf_counter()
        threshold, masks = _options(request)
        room = min(announced_bytes(request), most_bytes(self.limits))
        with contextlib.ExitStack() as held, contextlib.ExitStack() as coming:
            for budget, amount in ((self.requests, 1), (self.bodies, room)):
                if not held.enter_context(budget.at_once(amount)):
                    raise RequestError(429, BUSY, retry_after=1)
            coming.enter_context(self.batcher.expecting())
            upload = await read_upload(request, self.limits)
            pixels = check_size(upload.data, self.limits.image_pixels)

            async def detect() -> bytes:
                async with self.pixels.in_turn(pixels):
                    image = await asyncio.get_running_loop().run_in_executor(
                        self.decoders,
                        decode,
                        upload.data,
                        self.model.backend,
                        self.limits.image_pixels,
                    )
                    coming.close()
                    return await self.batcher.detect(image, finish)

            finish = functools.partial(
                to_json,
                categories=self.model.categories,
                file_name=upload.name,
                threshold=threshold,
                masks=masks,
            )
            answer = await self._in_time(request, detect())
        self.metrics.seconds.observe(time.perf_counter() - start)
        return Response(answer, media_type="application/json")

    async def _in_time(self, request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
        """The result of ``work``, which is given up if the client goes away or waits too long."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait(
                {task, gone},
                timeout=self.limits.answer_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            raise RequestError(
                503,
                f"The turn of this image did not come within {self.limits.answer_seconds:g} "
                "seconds: try again later",
                retry_after=math.ceil(self.limits.answer_seconds),
            )
        finally:
            task.cancel()
            gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _options(request: Request) -> tuple[float, bool]:
    """``?threshold=0.5&masks=false``

    Raises:
        RequestError: 400 if one of them is unknown, is given twice or has another value.
    """
    query = request.query_params
    unknown = set(query) - {"threshold", "masks"}
    if unknown:
        raise RequestError(
            400, f"There is no option {min(unknown)[:40]!r}: there are threshold and masks"
        )
    if len(query.multi_items()) > len(query):
        raise RequestError(400, "An option is given twice")
    try:
        threshold = float(query.get("threshold", "0"))
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise RequestError(400, "threshold is no score: give a number from 0 to 1")
    masks = BOOLEANS.get(query.get("masks", "true").lower())
    if masks is None:
        raise RequestError(400, "masks is true or false")
    return threshold, masks


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"status": int(status), "error": message}
    return JSONResponse(body, status_code=status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, or another method."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = "There is no such path: there are /, /predict, /health and /metrics"
    elif error.status_code == 405 and request.url.path == "/predict":
        message = "Send an image with POST, as curl --data-binary @photo.jpg does"
    return _error(error.status_code, message, dict(error.headers or {}))
