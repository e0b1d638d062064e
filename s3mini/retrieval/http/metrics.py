"""What a retrieval server counts, for Prometheus."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BATCHES = [2**n for n in range(11)]
_SECONDS = [0.001 * 2**n for n in range(16)]


class Metrics:
    """Counters in a registry of their own: two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = to = CollectorRegistry()
        self.requests = Counter("s3mini_requests", "Requests, by status", ["status"], registry=to)
        self.queries = Counter("s3mini_queries", "Queries answered", registry=to)
        self.hits = Counter("s3mini_cache_hits", "Queries found in the cache", registry=to)
        self.odd = Counter("s3mini_odd_queries", "Queries not searched as they came", ["what"], registry=to)
        self.rejected = Counter("s3mini_rejected", "Requests refused: the queue was full", registry=to)
        self.open = Gauge("s3mini_open_requests", "Requests taken and not yet answered", registry=to)
        self.waiting = Gauge("s3mini_waiting_queries", "Queries in the queue", registry=to)
        batches, seconds = (partial(Histogram, buckets=b, registry=to) for b in (_BATCHES, _SECONDS))
        self.batch = batches("s3mini_batch_queries", "Queries searched at once")
        self.search = seconds("s3mini_search_seconds", "Seconds of a batch in the engine")
        self.latency = seconds("s3mini_request_seconds", "Seconds of a request")
