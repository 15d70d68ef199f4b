"""`/metrics`: how much is asked, waits, is answered and is held in memory, for a monitoring system to read."""

import os
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import trio
from fastapi import APIRouter
from starlette.responses import Response

from node.api.prometheus import CONTENT_TYPE, Metric, Sample, single, write_metrics
from node.models.memory import resident_bytes
from node.models.residency import Seat
from node.models.service import Models
from node.models.supervisor import Worker


class MetricsRoutes:
    """The route, over the models service and the counts of requests."""

    def __init__(self, models: Models, requests: Counter[tuple[str, str, int]]) -> None:
        self._models = models
        self._requests = requests

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/metrics", self.metrics, methods=["GET"], response_model=None)
        return router

    async def metrics(self) -> Response:
        """Return every metric in Prometheus' text format; no label tells what was asked."""
        resident = await trio.to_thread.run_sync(self._resident)
        found = [*self._of_requests(), *self._of_models(resident), *self._of_answers(), *_of_process(resident)]
        return Response(write_metrics(found), media_type=CONTENT_TYPE)

    def _resident(self) -> dict[int, int]:
        return {pid: resident_bytes(pid) for pid in (os.getpid(), *self._models.worker_pids())}

    def _of_requests(self) -> Iterator[Metric]:
        samples = [
            ({"method": method, "route": route, "status": str(status)}, count)
            for (method, route, status), count in sorted(self._requests.items())
        ]
        yield Metric("tilenode_requests_total", "counter", "HTTP requests by route and status", samples)

    def _of_models(self, resident: dict[int, int]) -> Iterator[Metric]:
        residency, limits = self._models.scheduler.residency, self._models.scheduler.limits
        seats, loaded = list(self._models.scheduler.seats()), self._models.scheduler.loaded()

        def of_seats(name: str, meaning: str, value: Callable[[Seat], float]) -> Metric:
            return Metric(name, "gauge", meaning, [(_named(seat), value(seat)) for seat in seats])

        def of_workers(name: str, meaning: str, value: Callable[[Worker], float]) -> Metric:
            return Metric(name, "gauge", meaning, [(_named(seat), value(worker)) for seat, worker in loaded])

        yield of_seats("tilenode_requests_active", "requests that a worker has", lambda seat: seat.turns.taken)
        yield of_seats("tilenode_requests_waiting", "requests in line", lambda seat: seat.turns.waiting)
        yield single("tilenode_models_loaded", "gauge", "models in memory", len(loaded))
        yield single("tilenode_models_loaded_limit", "gauge", "models in memory at most", limits.loaded)
        yield of_workers("tilenode_model_memory_bytes", "memory of a model and its contexts", lambda w: w.memory_bytes)
        yield of_workers("tilenode_prefix_cache_bytes", "memory of kept prefixes", lambda w: w.status.prefix_bytes)
        yield of_workers(
            "tilenode_worker_resident_bytes", "memory of the worker process", lambda w: resident.get(w.pid, 0)
        )
        yield single("tilenode_memory_promised_bytes", "gauge", "memory given to models", residency.held_bytes())
        yield single("tilenode_memory_budget_bytes", "gauge", "memory that models may take", residency.budget_bytes)

    def _of_answers(self) -> Iterator[Metric]:
        done = self._models.metrics
        hits, misses = self._models.prefix_counts()
        yield _by("tilenode_answers_total", "answers by how they ended", "reason", done.answers)
        yield _by("tilenode_worker_failures_total", "workers that failed, by how", "error", done.failures)
        for name, meaning, value in (
            ("tilenode_prompt_tokens_total", "tokens of prompts", done.prompt_tokens),
            ("tilenode_prompt_tokens_cached_total", "tokens of prompts that were read before", done.cached_tokens),
            ("tilenode_answer_tokens_total", "tokens of answers", done.answer_tokens),
            ("tilenode_draft_tokens_total", "tokens that a draft model proposed", done.drafted_tokens),
            ("tilenode_draft_tokens_accepted_total", "tokens of a draft model that were taken", done.accepted_tokens),
            ("tilenode_prefix_cache_hits_total", "prompts whose beginning was kept", hits),
            ("tilenode_prefix_cache_misses_total", "prompts whose beginning was not kept", misses),
            ("tilenode_prompt_seconds_total", "time spent on reading prompts", done.prompt_seconds),
            ("tilenode_answer_seconds_total", "time spent on writing answers", done.answer_seconds),
            ("tilenode_model_loads_total", "models brought into memory", done.loads),
            ("tilenode_model_load_seconds_total", "time spent on that", done.load_seconds),
        ):
            yield single(name, "counter", meaning, value)


def _named(seat: Seat) -> dict[str, str]:
    return {"model": " ".join(model.name for model in seat.models.values())}


def _by(name: str, meaning: str, label: str, counts: Counter[str]) -> Metric:
    samples: list[Sample] = [({label: key}, value) for key, value in sorted(counts.items())]
    return Metric(name, "counter", meaning, samples)


def _of_process(resident: dict[int, int]) -> Iterator[Metric]:
    process = psutil.Process()
    yield single("process_resident_memory_bytes", "gauge", "memory of the node", resident[os.getpid()])
    yield single("process_open_fds", "gauge", "open files of the node", process.num_fds())
    yield single("process_cpu_seconds_total", "counter", "processor time of the node", sum(process.cpu_times()[:2]))
    yield single("process_start_time_seconds", "gauge", "when the node started", process.create_time())
