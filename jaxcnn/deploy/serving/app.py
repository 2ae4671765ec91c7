"""The ASGI application: its paths, and what each of them does."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.deploy.answers import LEAST_SCORE
from jaxcnn.deploy.serving import answering, body, loaded, openapi, pages
from jaxcnn.deploy.serving.batching import Batches
from jaxcnn.deploy.serving.counts import Counts, counts, text
from jaxcnn.deploy.serving.limits import Limits, RefusedError
from jaxcnn.deploy.serving.replies import answered, reply

log = logging.getLogger("jaxcnn")
EXPLAINED = 4  # explanations that wait or are computed at once


@dataclasses.dataclass
class State:
    """What the handlers share.

    Attributes:
        path: of the run, or of a link to it.
        limits: the limits.
        token: that a request must carry; empty for none.
        together: see `deploy.outputs.outputs`.
        watch: seconds between looks for a newer run; 0 for never.
        counts: the metrics.
        bodies: the bytes of all requests.
        served: the run that answers; None until it is ready.
        batches: the queue; it exists while the application runs.
        pool: threads that decode images.

    """

    path: str
    limits: Limits
    token: str
    together: bool
    watch: float
    counts: Counts
    bodies: body.Bodies
    served: loaded.Served | None = None
    batches: Any = None
    pool: Any = None
    explaining: int = 0


def application(
    path: str, limits: Limits, *, token: str = "", together: bool = False, watch: float = 2.0, wait: bool = False,
    failed: Callable[[str], None] = log.error,
) -> Any:  # fmt: skip
    """Return the application, which loads and compiles its run when it starts.

    Args:
        path: folder of the run, or a link to it.
        limits: the limits.
        token: that requests must carry; empty for none.
        together: see `deploy.outputs.outputs`.
        watch: seconds between looks for a newer run at `path`; 0 for never.
        wait: accept no connection before the programs are compiled; otherwise `/health` says so.
        failed: called with a line if the run cannot be loaded.

    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    state = State(path, limits, token, together, watch, counts(), body.Bodies(limits.memory))
    # it would log what a client sends, and a client gets the same as an answer
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        state.batches = Batches(limits, lambda rows, seconds: _computed(state.counts, rows, seconds))
        state.pool = concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1), "decode")
        seen = loaded.signature(path)

        async def first() -> None:
            try:
                await _load(state)
            except Exception as error:
                failed(visible(error))

        async def going() -> None:
            if not wait:
                await first()
            await _watch(state, seen)

        if wait:
            await first()
        task = asyncio.create_task(going())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await state.batches.close()
            state.pool.shutdown(cancel_futures=True)

    def route(where: str, handler: Callable[..., Awaitable[Any]], methods: tuple[str, ...], free: bool = False) -> Any:
        return Route(where, answered(state, where, handler, free), methods=list(methods))

    routes = [
        route("/predict", _predict, ("POST",)), route("/explain", _explain, ("POST",)),
        route("/about", _about, ("GET",)), route("/metrics", _metrics, ("GET",)),
        route("/health", _health, ("GET",), True), route("/openapi.json", _openapi, ("GET",), True),
        *(route(where, _page(*page), ("GET",), True) for where, page in pages.read().items()),
    ]  # fmt: skip

    async def other(request: Any, error: Any) -> Any:
        state.counts.requests.labels("other", error.status_code).inc()
        return reply(error.status_code, {"error": error.detail}, dict(error.headers or {}))

    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: other})


async def _load(state: State) -> None:
    """Load the run that is at the path now, and let it take over."""
    served = await asyncio.to_thread(loaded.prepare, state.path, state.limits, state.together)
    state.served = served  # requests that began with the older one end with it
    state.counts.ready.set(1)
    state.counts.step.set(served.run.step)
    log.info("ready: %s, step %d", visible(served.name), served.run.step)


async def _watch(state: State, seen: str) -> None:
    """Look for a newer run now and then; one that cannot be loaded is told once, and the older one stays."""
    while state.watch:
        await asyncio.sleep(state.watch)
        found = await asyncio.to_thread(loaded.signature, state.path)
        if found in ("", seen):
            continue
        seen, result = found, "served"
        try:
            await _load(state)
        except Exception as error:  # also what a half-written folder makes a library raise
            result = "failed"
            log.warning("%s; the run that was served before stays", visible(error))
        state.counts.reloads.labels(result).inc()


def _computed(found: Counts, rows: int, seconds: float) -> None:
    found.batch_rows.observe(rows)
    found.batch_seconds.observe(seconds)
    found.rows.inc(rows)


def _ready(state: State) -> loaded.Served:
    if state.served is None:
        raise RefusedError(503, "the programs are being compiled; try again", 1)
    return state.served


@contextlib.asynccontextmanager
async def _read(
    state: State, served: loaded.Served, request: Any, options: tuple[str, ...], most: int
) -> AsyncIterator[body.Asked]:
    """Read what a request asks about, and hold its place in the queue, for a limited time."""
    with state.bodies.held() as take:
        asked = await body.asked(request, state.limits, served.field, options, take)
        if len(asked.things) > most:
            raise RefusedError(413, f"{len(asked.things)} rows; give {most}")
        async with _within(state, request, len(asked.things)):
            yield asked


@contextlib.asynccontextmanager
async def _within(state: State, request: Any, rows: int) -> AsyncIterator[None]:
    """Hold a place in the queue, for a limited time."""
    try:
        with state.batches.admitted(request.client.host if request.client else "", rows):
            state.counts.inside.set(state.batches.inside)
            async with asyncio.timeout(state.limits.seconds):
                yield
    except TimeoutError:
        line = f"no answer within {state.limits.seconds:g} seconds; try again"
        raise RefusedError(503, line, 5) from None
    finally:
        state.counts.inside.set(state.batches.inside)


async def _outputs(
    state: State, served: loaded.Served, things: list[Any]
) -> tuple[list[answering.Thing], list[list[Any]]]:
    """Return what the things are for the network, and its outputs for the rows of each."""
    loop = asyncio.get_running_loop()
    reading = [loop.run_in_executor(state.pool, answering.thing_of, served, one, state.limits) for one in things]
    try:
        read = await asyncio.gather(*reading)
    finally:
        for one in reading:
            one.cancel()
    rows, found = [row for one in read for row in one.rows], []
    for start in range(0, len(rows), served.width):  # a long sound has many rows: others get between them
        found += await state.batches.outputs(served, rows[start : start + served.width])
    each = iter(found)
    return read, [list(itertools.islice(each, len(one.rows))) for one in read]


async def _predict(state: State, request: Any) -> Any:
    """Answer `/predict`."""
    served = _ready(state)
    least = _least_score(served, request.query_params)
    async with _read(state, served, request, (), state.limits.rows) as asked:
        read, outputs = await _outputs(state, served, asked.things)

        def answers() -> list[dict[str, Any]]:
            each = zip(asked.things, read, outputs, strict=True)
            return [answering.answer(served, str(one), about, found, least) for one, about, found in each]

        found = await asyncio.get_running_loop().run_in_executor(state.pool, answers)
    return reply(200, {"run": served.name, "step": served.run.step, "predictions": found})


def _least_score(served: loaded.Served, given: Any) -> float:
    """Return the lowest score of a box that a client asks for."""
    if unknown := sorted(set(given) - ({"least_score"} if served.task == "detection" else set())):
        raise RefusedError(422, f"parameter {visible(unknown[0])[:80]!r}: unknown; leave it out")
    if len(given.getlist("least_score")) > 1:
        raise RefusedError(422, "least_score: is there twice; leave one out")
    try:
        value = float(given.get("least_score", LEAST_SCORE))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RefusedError(422, f"least_score {visible(given['least_score'])[:40]}: must be in 0..1")
    return value


async def _explain(state: State, request: Any) -> Any:
    """Answer `/explain`."""
    served = _ready(state)
    if served.explain is None:
        raise RefusedError(422, f"a run of {served.task} is not explained here; use jaxcnn explain")
    if unknown := sorted(set(request.query_params) - {"target"}):
        raise RefusedError(422, f"parameter {visible(unknown[0])[:80]!r}: unknown; leave it out")
    classes = served.run.config["classes"]
    async with _read(state, served, request, ("target",), 1) as asked:
        with _explaining(state):
            thing = asked.things[0]
            read, outputs = await _outputs(state, served, [thing])
            found = answering.answer(served, str(thing), read[0], outputs[0])
            given = [*asked.options.values(), *request.query_params.getlist("target")]
            if len(given) > 1:
                raise RefusedError(422, "target: is there twice; leave one out")
            target = given[0] if given else max(found["probabilities"], key=found["probabilities"].get)
            if target not in classes:
                raise RefusedError(422, f"target {visible(target)[:80]!r}: no such class")
            text = thing if isinstance(thing, str) else ""
            loop = asyncio.get_running_loop()
            more = await loop.run_in_executor(state.pool, served.explain, read[0].rows[0], classes.index(target), text)
    return reply(200, found | {"explained": target} | more)


@contextlib.contextmanager
def _explaining(state: State) -> Iterator[None]:
    """Count an explanation while it is computed."""
    if state.explaining >= EXPLAINED:
        raise RefusedError(503, "busy with other explanations; try again", 2)
    state.explaining += 1
    try:
        yield
    finally:
        state.explaining -= 1


async def _about(state: State, request: Any) -> Any:
    """Answer `/about`."""
    return reply(200, answering.about(_ready(state), state.limits))


async def _health(state: State, request: Any) -> Any:
    """Answer `/health`."""
    if state.served is None:
        return reply(503, {"status": "compiling"}, {"retry-after": "1"})
    return reply(200, {"status": "ready", "run": state.served.name, "step": state.served.run.step})


async def _metrics(state: State, request: Any) -> Any:
    """Answer `/metrics`."""
    from starlette.responses import Response

    content, kind = text(state.counts)
    return Response(content, 200, pages.HEADERS | {"content-type": kind})


async def _openapi(state: State, request: Any) -> Any:
    """Answer `/openapi.json`."""
    return reply(200, openapi.document(state.limits, bool(state.token)))


def _page(content: bytes, kind: str) -> Callable[..., Awaitable[Any]]:
    """Return a handler that gives a file of the page."""
    from starlette.responses import Response

    async def handler(state: State, request: Any) -> Any:
        return Response(content, 200, pages.HEADERS | {"content-type": kind})

    return handler
