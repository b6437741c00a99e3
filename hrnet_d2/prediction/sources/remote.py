"""Files by URL: http and https, whatever fsspec knows (memory, s3, gs, ...), and iopath's."""

import contextlib
import io
import posixpath
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import ImageReadError

from .item import IMAGES

__all__ = ["MAX_BYTES", "base_name", "expand_url", "is_url", "open_url", "read_bounded", "read_url"]

MAX_BYTES = 2**30  # of an encoded image
TIMEOUT = 60.0  # seconds without a byte
TRIES = 3
WEB = ("http", "https")

T = TypeVar("T")


def is_url(text: str) -> bool:
    """Whether a text is a URL, and no path of this system."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and len(scheme) > 1 and scheme.replace("+", "").isalnum()


def base_name(url: str) -> str:
    """The last part of a URL's path, without a query."""
    return posixpath.basename(urlsplit(url).path.rstrip("/")) or urlsplit(url).netloc


def open_url(url: str) -> BinaryIO:
    """Open a URL for reading bytes from its start.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read.
        ConfigError: if a package is missing that this kind of URL needs.
    """
    if url.partition("://")[0].lower() in WEB:
        return _open_web(url)
    if (files := _fsspec(url)) is not None:
        system, path = files
        opened: BinaryIO = system.open(path, "rb")
        return opened
    from detectron2.utils.file_io import PathManager

    opened = PathManager.open(url, "rb")
    return opened


def read_url(url: str) -> bytes:
    """The bytes of a small file, with some patience for networks that fail now and then.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageReadError: if it has more than ``MAX_BYTES``.
        OSError: if it cannot be read.
        ConfigError: as :func:`open_url`.
    """

    def read() -> bytes:
        with contextlib.closing(open_url(url)) as file:
            return read_bounded(file, url)

    try:
        return _patiently(read)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {url}: {error}") from error
    except OSError as error:
        if isinstance(error, ImageReadError):
            raise
        raise OSError(f"{url} cannot be read: {error}") from error


def read_bounded(file: Any, name: str) -> bytes:
    """All bytes of a file.

    Raises:
        ImageReadError: if they are more than ``MAX_BYTES``.
    """
    data: bytes = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageReadError(f"{name} has more than {MAX_BYTES // 2**20} MiB: this is no image")
    return data


def expand_url(url: str) -> list[tuple[str, str]]:
    """The files that a URL stands for.

    Args:
        url: of a file, a folder, or a pattern with ``*``, ``?`` or ``[]``.

    Returns:
        Pairs of a URL, and the URL of the folder that its name is relative to, sorted. Of a folder
        these are the images in it and below. A URL of http or https is one file.

    Raises:
        FileNotFoundError: if a folder has no image, or a pattern matches nothing.
        ConfigError: as :func:`open_url`.
    """
    parent = url.rstrip("/").rpartition("/")[0]
    if url.partition("://")[0].lower() in WEB:
        return [(url, parent)]
    if (files := _fsspec(url)) is None:
        from detectron2.utils.file_io import PathManager

        found = list(_walk(PathManager, url)) if PathManager.isdir(url) else [url]
        return [(u, url.rstrip("/") if u != url else parent) for u in _images(found, url)]
    system, path = files
    if any(c in path for c in "*?[") and not system.exists(path):
        matches = sorted(system.glob(path))
        if not matches:
            raise FileNotFoundError(f"Nothing matches {url}")
        root = system.unstrip_protocol(_fixed_part(path))
        return [(system.unstrip_protocol(m), root) for m in matches if not system.isdir(m)]
    if not system.isdir(path):
        return [(url, parent)]
    root = system.unstrip_protocol(path).rstrip("/")
    found = [system.unstrip_protocol(p) for p in system.find(path)]
    return [(u, root) for u in _images(found, url)]


def _images(found: list[str], url: str) -> list[str]:
    if found == [url]:
        return found
    images = sorted(u for u in found if u.lower().endswith(IMAGES))
    if not images:
        raise FileNotFoundError(f"There is no image in the folder {url}")
    return images


def _walk(manager: Any, folder: str) -> Iterator[str]:
    for name in sorted(manager.ls(folder)):
        path = f"{folder.rstrip('/')}/{name}"
        if manager.isdir(path):
            yield from _walk(manager, path)
        else:
            yield path


def _fixed_part(pattern: str) -> str:
    """The folder in front of a pattern's first special character."""
    first = min(pattern.find(c) for c in "*?[" if c in pattern)
    return pattern[:first].rpartition("/")[0]


def _fsspec(url: str) -> tuple[Any, str] | None:
    """The file system of a URL and the path in it; None if fsspec does not know its kind."""
    try:
        import fsspec
    except ImportError:  # torch brings it
        return None
    scheme = url.partition("://")[0].split("::")[0].lower()
    if scheme not in fsspec.available_protocols():
        return None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # "Install s3fs to access S3"
        raise ConfigError(f"{url} needs another package: {error}") from error
    return system, path


def _open_web(url: str) -> BinaryIO:
    request = urllib.request.Request(url, headers={"User-Agent": "hrnet_d2"})
    try:
        response: BinaryIO = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(f"{error.code} {error.reason}") from error
        if 400 <= error.code < 500 and error.code not in (408, 429):
            raise PermissionError(f"{error.code} {error.reason}") from error
        raise OSError(f"{error.code} {error.reason}") from error
    except (urllib.error.URLError, ValueError) as error:
        raise OSError(str(getattr(error, "reason", error))) from error
    return response


def _patiently(read: Callable[[], T]) -> T:
    for attempt in range(1, TRIES + 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError, IsADirectoryError, ImageReadError):
            raise
        except (OSError, EOFError, urllib.error.ContentTooShortError):
            if attempt == TRIES:
                raise
            time.sleep(attempt)
    raise AssertionError


def open_seekable(url: str) -> BinaryIO:
    """A small file by URL, in memory."""
    return io.BytesIO(read_url(url))
