"""Reading the image of a request: bounded in size and time, in memory alone."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from hrnet_d2.text import printable

from .errors import RequestError
from .settings import Limits

__all__ = ["TrackedBody", "Upload", "announced_bytes", "most_bytes", "read_upload"]

FORM_BYTES = 64 * 2**10  # of a form beside its file
LONGEST_NAME = 255
LINGER = 2.0  # seconds
ENDLESS = 2**62


@dataclass(frozen=True)
class Upload:
    """An image as it was sent."""

    data: bytes
    name: str = ""
    """Of the file, if the client told it; it is never opened."""


class TrackedBody:
    """The body of a request, of which is known whether it was read to its end."""

    def __init__(self, request: Request):
        """
        Args:
            request: not read yet.
        """
        self._receive = request.receive
        self._expects = request.headers.get("expect", "").lower() == "100-continue"
        self._begun = False
        self._ended = request.method in ("GET", "HEAD")

    async def receive(self) -> Message:
        """As ASGI's ``receive``."""
        self._begun = True
        message = await self._receive()
        self._ended |= message["type"] != "http.request" or not message.get("more_body")
        return message

    async def abandon(self) -> bool:
        """Read on for a moment and forget it: a client that still sends would not see the answer.

        Returns:
            Whether a part of the body is left, so that the connection cannot be used again.
        """
        end = time.monotonic() + LINGER
        # A client that waits for "100 Continue" has sent nothing, and need not.
        while not self._ended and (self._begun or not self._expects):
            left = end - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.receive(), left)
        return not self._ended


def most_bytes(limits: Limits) -> int:
    """That the body of a request may have."""
    return limits.image_bytes + FORM_BYTES


def announced_bytes(request: Request) -> int:
    """How many bytes the body of a request has by its header; without one "endless" many.

    Raises:
        RequestError: 400 if that is no number.
    """
    text = request.headers.get("content-length")
    if text is None:
        return ENDLESS
    if not text.isascii() or not text.isdigit():
        raise RequestError(400, "The header Content-Length is no number")
    return int(text) if len(text) < len(str(ENDLESS)) else ENDLESS


async def read_upload(request: Request, limits: Limits) -> Upload:
    """The image of a request: its body, or the file of a form.

    Raises:
        RequestError: 400 for a form without a file, 408 if it takes too long, 413 if it is too
            large.
        starlette.requests.ClientDisconnect: if the client went away.
    """
    try:
        body = await asyncio.wait_for(_read(request, limits), limits.upload_seconds)
    except asyncio.TimeoutError:
        raise RequestError(
            408, f"The image was not sent within {limits.upload_seconds:g} seconds"
        ) from None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    upload = await _of_form(request, body) if kind == "multipart/form-data" else Upload(body)
    if len(upload.data) > limits.image_bytes:
        raise _too_large(limits)
    return upload


async def _read(request: Request, limits: Limits) -> bytes:
    most = most_bytes(limits)
    if "content-length" in request.headers and announced_bytes(request) > most:
        raise _too_large(limits)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(limits)
        chunks.append(chunk)
    return b"".join(chunks)


class _Parser(MultiPartParser):
    """Starlette's, which writes no file: the body is in memory and bounded."""

    spool_max_size = 2**62


async def _of_form(request: Request, body: bytes) -> Upload:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await _Parser(request.headers, stream(), max_files=1, max_fields=8).parse()  # type: ignore[arg-type]
    except (MultiPartException, FormParserError) as error:
        raise RequestError(400, f"The form cannot be read: {error}") from error
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            data = await value.read()
            await value.close()
            return Upload(data, _base_name(value.filename or ""))
    raise RequestError(400, "The form has no file: send one, as curl -F image=@photo.jpg does")


def _base_name(name: str) -> str:
    return printable(name.replace("\\", "/").rpartition("/")[2])[:LONGEST_NAME]


def _too_large(limits: Limits) -> RequestError:
    return RequestError(
        413,
        f"The file is larger than this server takes ({limits.image_bytes / 1e6:g} MB): send a "
        "smaller one",
    )
