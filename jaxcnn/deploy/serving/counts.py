"""Metrics of a server in the text format of Prometheus, of one process or added up over several."""

import os
from typing import Any, NamedTuple

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where several processes keep their numbers; prometheus_client reads it
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Counts(NamedTuple):
    """What is counted; each is a metric of `prometheus_client`."""

    registry: Any
    requests: Any
    seconds: Any
    rows: Any
    batch_rows: Any
    batch_seconds: Any
    inside: Any
    ready: Any
    reloads: Any
    step: Any


def counts() -> Counts:
    """Make the metrics of one server."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    to = CollectorRegistry()
    return Counts(
        to,
        Counter("jaxcnn_requests", "Requests by path and status.", ["path", "status"], registry=to),
        Histogram("jaxcnn_request_seconds", "Time from head to answer.", ["path"], buckets=SECONDS, registry=to),
        Counter("jaxcnn_rows", "Rows that were answered.", registry=to),
        Histogram("jaxcnn_batch_rows", "Rows of a batch.", buckets=ROWS, registry=to),
        Histogram("jaxcnn_batch_seconds", "Computation of a batch.", buckets=SECONDS, registry=to),
        Gauge("jaxcnn_rows_inside", "Rows that wait or are computed.", multiprocess_mode="livesum", registry=to),
        Gauge("jaxcnn_ready", "Processes whose programs are compiled.", multiprocess_mode="livesum", registry=to),
        Counter("jaxcnn_reloads", "Newer runs, by what became of them.", ["result"], registry=to),
        Gauge("jaxcnn_run_step", "Training step of the served weights.", multiprocess_mode="livemin", registry=to),
    )


def text(found: Counts) -> tuple[bytes, str]:
    """Return the metrics as text and its content type; of all processes, if there are several."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    if not os.environ.get(FOLDER):
        return generate_latest(found.registry), CONTENT_TYPE_LATEST
    from prometheus_client.multiprocess import MultiProcessCollector

    together: Any = CollectorRegistry()
    MultiProcessCollector(together)
    return generate_latest(together), CONTENT_TYPE_LATEST
