"""How many images may be in memory: by their bytes, and in an order that never stands still."""

import threading

__all__ = ["Gate"]

BYTES = 512 * 2**20
MOST = 512


class Gate:
    """Bounds the images between reading and writing.

    An image enters with a number, takes room for its pixels when its size is known, and leaves when
    it is written.  Room is given as long as there is some, and always to the image that the network
    waits for with nothing else to do, so that no image is too large.
    """

    def __init__(self, limit: int = BYTES, most: int = MOST):
        """
        Args:
            limit: bytes of decoded images.
            most: images.
        """
        self.limit = limit
        self.most = most
        self.peak = 0  # bytes
        self._changed = threading.Condition()
        self._inside = 0
        self._bytes = 0
        self._needed = -1
        self._waiting = 0
        self._closed = False

    def enter(self) -> bool:
        """Wait until another image may be read; False if the gate was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._inside < self.most)
            self._inside += not self._closed
            return not self._closed

    def take_room(self, number: int, size: int) -> bool:
        """Wait until there is room for the pixels of an image; False if the gate was closed.

        Args:
            number: of the image.
            size: bytes.
        """
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or self._bytes + size <= self.limit
                    or self._bytes == 0
                    or number <= self._needed
                )
            )
            self._waiting -= 1
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
            return not self._closed

    def give_back(self, size: int) -> None:
        """Room that an image took and does not need."""
        with self._changed:
            self._bytes -= size
            self._changed.notify_all()

    def need(self, number: int) -> None:
        """The network waits for this image, and holds no other."""
        with self._changed:
            self._needed = number
            self._changed.notify_all()

    @property
    def crowded(self) -> bool:
        """Whether an image waits for room."""
        return self._waiting > 0

    def leave(self, size: int) -> None:
        """An image is no longer needed."""
        with self._changed:
            self._inside -= 1
            self._bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
