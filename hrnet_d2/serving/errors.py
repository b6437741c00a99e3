"""Why a request was not answered, with the HTTP status that says so."""

from http import HTTPStatus

__all__ = ["SERVER_FAILED", "RequestError"]

SERVER_FAILED = "The server failed; its log says why"


class RequestError(Exception):
    """A request that gets another answer than detections.

    Attributes:
        status: of HTTP.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None):
        """
        Args:
            status: of HTTP.
            message: for the user: what is wrong and what to do.
            retry_after: seconds after which the same request may work.
        """
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
