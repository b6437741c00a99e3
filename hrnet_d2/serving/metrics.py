"""What a server counts, as Prometheus reads it."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server; each has its own, so that a process may have several."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "hrnet_d2_requests",
            "Requests by path and status",
            ("path", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "hrnet_d2_predict_seconds",
            "From the head of a request to its answer",
            registry=registry,
            buckets=SECONDS,
        )
        self.waiting_seconds = Histogram(
            "hrnet_d2_queue_seconds",
            "From the decoded image to the start of its batch",
            registry=registry,
            buckets=SECONDS,
        )
        self.batch_seconds = Histogram(
            "hrnet_d2_batch_seconds",
            "Network and encoding of one batch",
            registry=registry,
            buckets=SECONDS,
        )
        self.batch_images = Histogram(
            "hrnet_d2_batch_images", "Images in a batch", registry=registry, buckets=BATCHES
        )
        self.detections = Counter(
            "hrnet_d2_detections", "Detections that were answered", registry=registry
        )
        self.in_flight = Gauge(
            "hrnet_d2_requests_in_flight",
            "Requests uploaded, waiting or running",
            registry=registry,
        )
        self.queue = Gauge("hrnet_d2_queue_images", "Images that wait", registry=registry)

    content_type = CONTENT_TYPE_LATEST

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
