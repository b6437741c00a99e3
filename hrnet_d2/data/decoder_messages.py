"""What image libraries write to the C level's standard error while they decode.

libjpeg decodes files with damaged data and only prints a line, without the file's name, that
Python does not see; OpenCV gives no other access to it.  Here standard error leads to a file in
memory during the calls: two system calls for each image, a microsecond.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_with_messages"]

if sys.platform == "linux":
    import fcntl

T = TypeVar("T")

# What of it is an image library's; the rest is passed on.
MESSAGE = re.compile(
    r"libpng|JPEG|jpeg|JFIF|Huffman|SOS param|progression|scanlines|TIFF|Adobe marker|quantization"
    r"|^\[ *(ERROR|WARN):\S+ global (loadsave|grfmt_|bitstrm)"
)


class _Capture:
    """Leads standard error to a file for as long as calls run, in one or several threads."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running = 0
        self.starts = 0
        self.alone = False  # a call runs that must not share its output
        self.saved = self.file = -1
        self.passed = 0  # length of the output whose other lines were passed on

    def start(self, alone: bool) -> tuple[int, int]:
        """Returns the length of the output so far, and a number for :meth:`stop`."""
        with self.changed:
            while self.alone or (alone and self.running):
                self.changed.wait()
            if not self.running:
                self._redirect()
            self.alone = alone
            self.running += 1
            self.starts += 1
            return os.fstat(self.file).st_size, self.starts if self.running == 1 else -1

    def stop(self, begin: int, number: int) -> tuple[str, bool]:
        """Returns the output since ``begin``, and whether another call ran at the same time."""
        with self.changed:
            shared = number != self.starts
            self.running -= 1
            size = os.fstat(self.file).st_size
            text = _read(self.file, size - begin, begin) if size > begin else b""
            if not self.running:
                os.dup2(self.saved, 2)
            self._pass_on()
            if not self.running:
                os.close(self.saved)
            self.alone = False
            self.changed.notify_all()
            return text.decode(errors="replace"), shared

    def _redirect(self) -> None:
        if self.file < 0:
            self.file = _memory_file()
        self.saved = os.dup(2)
        # The file stays open, since a thread that does not decode may still have been writing to
        # it when standard error was led back: its line comes now.
        self._pass_on()
        if self.passed > 2**20:
            os.ftruncate(self.file, 0)
            self.passed = 0
        try:
            os.dup2(self.file, 2)
        except OSError:
            os.close(self.saved)
            raise

    def _pass_on(self) -> None:
        """Write what others printed to where standard error led before."""
        size = os.fstat(self.file).st_size
        output = _read(self.file, size - self.passed, self.passed)
        self.passed = size
        lines = output.decode(errors="replace").splitlines(keepends=True)
        others = "".join(line for line in lines if not MESSAGE.search(line))
        if others:
            with contextlib.suppress(OSError):
                os.write(self.saved, others.encode())


def call_with_messages(call: Callable[[], T]) -> tuple[T, str]:
    """Call a decoder; return its result and the line that its library printed, or "".

    Calls run side by side in threads.  If something is printed while several run, the call is
    repeated alone, since only then it is clear whose it is.
    """
    try:
        result, text, shared = _call(call, alone=False)
        if text and shared:
            result, text, _ = _call(call, alone=True)
    except _NoCaptureError:
        return call(), ""
    lines = [line.strip() for line in text.splitlines() if MESSAGE.search(line)]
    return result, "; ".join(dict.fromkeys(lines))


class _NoCaptureError(Exception):
    """Standard error is closed, or no file can be had."""


def _call(call: Callable[[], T], alone: bool) -> tuple[T, str, bool]:
    capture = _capture
    try:
        begin, number = capture.start(alone)
    except OSError as error:
        raise _NoCaptureError from error
    try:
        result = call()
    finally:
        text, shared = capture.stop(begin, number)
    return result, text, shared


def _memory_file() -> int:
    """A file that only appends: threads write to it at the same time, and Linux does not serialize
    the position of a memory file, so that one line would overwrite another."""
    if sys.platform == "linux":
        handle = os.memfd_create("decoder_messages")
        fcntl.fcntl(handle, fcntl.F_SETFL, os.O_APPEND)
        return handle
    with tempfile.TemporaryFile("a+b", buffering=0) as file:
        return os.dup(file.fileno())


def _read(file: int, length: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, length, start)
    os.lseek(file, start, os.SEEK_SET)  # Windows; what is written is appended, wherever this is
    return os.read(file, length)


def _after_fork() -> None:
    """The child of a fork in the middle of a call has no thread that would end it."""
    global _capture
    if _capture.running:
        os.dup2(_capture.saved, 2)
    _capture = _Capture()


_capture = _Capture()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
