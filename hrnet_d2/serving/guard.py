"""Which requests are answered at all: against other web pages that a user's browser has open.

A page of any site may send requests to a server on the same machine. It must not reach the model:
requests from other origins are refused, and so are names of the server that are not its own, by
which a site that resolves to this machine ("DNS rebinding") would look like the same origin.
"""

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import RequestError

__all__ = ["Guard", "check_request"]

OWN_NAMES = ("localhost",)
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY = "default-src 'none'; frame-ancestors 'none'"


def check_request(request: Request, names: Sequence[str]) -> None:
    """Check where a request comes from and whom it means.

    Args:
        request: the request.
        names: under which the server is reached, beside "localhost" and addresses; "*" is any.

    Raises:
        RequestError: 400 without a host, 421 for another name, 403 for another origin.
    """
    headers = request.headers
    host = headers.get("host", "").lower()
    name = _name(host)
    if not name:
        raise RequestError(400, "The request names no host")
    known = {*OWN_NAMES, *(n.lower() for n in names)}
    if "*" not in known and name not in known and not _is_address(name):
        raise RequestError(
            421,
            f"This server does not answer under the name {name!r}. If it is its name, start it "
            f"with --allow-host {name}",
        )
    if request.method in ("GET", "HEAD"):  # links to the page may be anywhere
        return
    origin = headers.get("origin")
    foreign = origin is not None and origin.lower().partition("://")[2] != host
    if foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise RequestError(403, "Pages of other origins may not use this server")


def _name(host: str) -> str:
    """A ``Host`` header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Adds headers to every answer that restrict what a browser does with it."""

    def __init__(self, app: ASGIApp):
        """
        Args:
            app: to call.
        """
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        await self.app(scope, receive, guarded)
