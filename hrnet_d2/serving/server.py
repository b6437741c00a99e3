"""Running a server until it is told to stop."""

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from .settings import Limits

__all__ = ["bind", "build_server", "url_of"]

HEAD_SECONDS = 10  # for the head of a request to arrive
IDLE_SECONDS = 15  # for the next request of a connection
MOST_CONNECTIONS = 1000
MOST_HEAD_BYTES = 32 * 2**10


def bind(host: str, port: int) -> socket.socket:
    """A socket that is taken before a model is loaded.

    Args:
        host: an address or a name.
        port: 0 is any that is free.

    Raises:
        OSError: if the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(f"There is no address {host}: {error}") from error
    try:
        if hasattr(socket, "SO_REUSEADDR") and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        # An address that this machine does not have is no matter of the port.
        option = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise OSError(
            f"Port {port} of {host} cannot be used: {error.strerror}. Give another one with "
            f"{option}"
        ) from error
    return taken


def url_of(taken: socket.socket) -> str:
    """The address of the page, for a browser on this machine."""
    host, port = taken.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def build_server(app: Starlette, limits: Limits, started: Callable[[], None]) -> uvicorn.Server:
    """A server whose ``run([socket])`` serves until SIGINT (Ctrl-C) or SIGTERM.

    Requests that run are then answered. In another thread than the main one, which alone gets
    signals, set its ``should_exit``.

    Args:
        app: to serve.
        limits: ``stop_seconds`` counts here.
        started: called when connections are accepted.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
    )
    return _Server(config, started)


class _Server(uvicorn.Server):
    """Stops as a command does: the signal has done its work when all is answered."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]):
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        names = [n for n in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, n)]
        before = {n: signal.signal(getattr(signal, n), stop) for n in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)


class _Protocol(H11Protocol):
    """uvicorn's, which ends connections whose requests begin but do not arrive."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._end)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
