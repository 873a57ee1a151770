"""A synchronous orchestrator in one file: pools, a bounded queue, SSE for each task that can be resumed, cancel, metrics."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import prometheus_client
from flask import Flask, Response, jsonify, request

import worker_adapters as wa


def make_pool(
    name: str, engine: str, urls: Sequence[str], *, model: str | None = None, registry: Any = None
) -> wa.Pool:
    metrics = wa.MetricsOptions(registry=registry)
    timeouts = wa.Timeouts(first_token=30.0, idle=10.0)
    limits = wa.Limits(max_in_flight=64)
    return wa.Pool(
        wa.connect(
            engine,
            url,
            pool_id=name,
            replica_id=f"r{n}",
            model=model,
            metrics=metrics,
            timeouts=timeouts,
            limits=limits,
        )
        for n, url in enumerate(urls)
    )


def make_app(pools: Mapping[str, wa.Pool], registry: Any, workers: int = 64, queue: int = 256) -> Flask:
    app = Flask(__name__)
    log = wa.ReplayLog()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="task")
    room = threading.BoundedSemaphore(workers + queue)

    def work(pool: wa.Pool, task: wa.GenerateRequest, recording: wa.Recording) -> None:
        with recording:
            try:
                recording.follow(pool.stream(task, block=True))
            except wa.WorkerError as why:
                recording.append([why.error])

    @app.errorhandler(wa.WorkerError)
    def refuse(why: wa.WorkerError) -> Any:
        status, headers, body = wa.http_refusal(why, request.headers.get("X-Correlation-Id"))
        return jsonify(body), 404 if why.reason is wa.Reason.NOT_FOUND else status, headers

    def answer(task_id: str, **more: Any) -> Response:
        chunks = log.read(task_id, heartbeat=5.0, gone=request.environ.get("waitress.client_disconnected"), **more)
        return Response(wa.begin_stream(chunks), mimetype="text/event-stream", headers={"X-Task-Id": task_id})

    @app.post("/v1/tasks/<name>")
    def create(name: str) -> Any:
        own = {"task_id": str(uuid.uuid4()), "correlation_id": request.headers.get("X-Correlation-Id")}
        task = wa.GenerateRequest.from_json(request.get_data(), **own)
        if name not in pools:
            raise refused(wa.ErrorCode.INVALID_PARAMS, wa.Reason.NOT_FOUND, f"pools are {sorted(pools)}")
        if not room.acquire(blocking=False):
            raise refused(wa.ErrorCode.QUEUE_FULL_DROP_LRU, wa.Reason.QUEUE_FULL, "too many tasks wait")
        detached = "detached" in request.args
        recording = wa.Recording(log, task.task_id, grace=None if detached else 10.0)
        threads.submit(work, pools[name], task, recording).add_done_callback(lambda _: room.release())
        if detached:
            return jsonify(task_id=task.task_id), 202, {"Location": f"/v1/tasks/{task.task_id}/events"}
        return answer(task.task_id)

    @app.get("/v1/tasks/<task_id>/events")
    def events(task_id: str) -> Response:
        return answer(task_id, last_event_id=request.headers.get("Last-Event-ID"))

    @app.delete("/v1/tasks/<task_id>")
    def cancel(task_id: str) -> Any:
        outcomes = {pool.cancel(task_id) for pool in pools.values()}
        return jsonify(outcome=max(outcomes, key=lambda outcome: outcome is not wa.CancelOutcome.UNKNOWN))

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(prometheus_client.generate_latest(registry), mimetype="text/plain; version=0.0.4")

    @app.get("/v1/pools")
    def show() -> Any:
        return jsonify({name: [attrs.asdict(worker) for worker in pool.workers] for name, pool in pools.items()})

    return app


def refused(code: wa.ErrorCode, reason: wa.Reason, message: str) -> wa.WorkerError:
    return wa.WorkerError(wa.Error(code=code, reason=reason, message=message))
