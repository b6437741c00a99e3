"""What a server accepts, and how long it waits."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Memory is bounded by them: ``body_bytes`` of encoded images in all, 6 bytes for each of
    ``image_pixels`` of decoded ones, and what the network takes for a batch, whose images have
    ``image_pixels`` in all. A model with masks takes up to 100 bytes for each of these pixels.
    """

    image_bytes: int = 20_000_000
    """Of one upload."""
    image_pixels: int = 25_000_000
    """Of one image, by its header, before it is decoded; and of a batch."""
    requests: int = 256
    """Uploaded, waiting and running at once; more are answered with status 429."""
    body_bytes: int = 512_000_000
    """Of all requests at once."""
    batch_size: int = 8
    """The most images that run through the network at once."""
    batch_wait: float = 0.01
    """Seconds for which an idle network waits for uploads that have begun."""
    upload_seconds: float = 30.0
    """For one upload; slower ones are answered with status 408."""
    answer_seconds: float = 60.0
    """From an upload to its answer; later ones are answered with status 503."""
    stop_seconds: float = 30.0
    """For what is running when the server is stopped."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: if a limit is not positive.
        """
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}: it must be positive")
