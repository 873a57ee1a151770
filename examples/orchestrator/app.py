"""The routes. Nothing here knows an engine, and none of them is OpenAI's."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import attrs
import prometheus_client
from flask import Flask, Response, g, jsonify, request

from worker_adapters import GenerateRequest, Reason, WorkerError, begin_stream, http_refusal

from .tasks import Tasks

__all__ = ["make_app"]

PAGE = Path(__file__).with_name("page.html")
LONGEST_ID = 200


def make_app(tasks: Tasks, registry: prometheus_client.CollectorRegistry) -> Flask:
    """The WSGI application over these tasks."""
    app = Flask(__name__, static_folder=None)
    waiting = prometheus_client.Gauge("orchestrator_waiting", "Tasks that wait for a slot.", registry=registry)
    waiting.set_function(lambda: tasks.waiting)

    @app.before_request
    def correlate() -> None:
        given = request.headers.get("X-Correlation-Id", "")
        g.correlation_id = given if 0 < len(given) <= LONGEST_ID and given.isprintable() else str(uuid.uuid4())

    @app.after_request
    def say_correlation(response: Response) -> Response:
        response.headers["X-Correlation-Id"] = g.correlation_id
        return response

    @app.errorhandler(WorkerError)
    def refuse(why: WorkerError) -> tuple[Response, int, dict[str, str]]:
        status, headers, body = http_refusal(why, g.correlation_id)
        return jsonify(body), 404 if why.reason is Reason.NOT_FOUND else status, headers

    def owner() -> str:
        return request.headers.get("Authorization", "")

    @app.post("/v1/tasks")
    def create() -> tuple[Response, int, dict[str, str]]:
        own = {"task_id": str(uuid.uuid4()), "correlation_id": g.correlation_id}
        asked = GenerateRequest.from_json(request.get_data(), **own, deadline_at=None)
        until = time.time() + (asked.deadline or tasks.settings.deadline)  # from now on, whoever it goes to
        task = tasks.add(attrs.evolve(asked, deadline=None, deadline_at=until), owner())
        said = {
            "task_id": asked.task_id,
            "queue_position": task.queue_position,
            "predicted_start_ms": task.predicted_start_ms,
        }
        return jsonify(said), 202, {"Location": f"/v1/tasks/{asked.task_id}/stream"}

    @app.get("/v1/tasks/<task_id>/stream")
    def stream(task_id: str) -> Response:
        if request.method == "HEAD":  # which Flask adds: its answer waits for nothing
            return Response(
                status=200 if tasks.log.knows(task_id, owner=owner()) else 404, mimetype="text/event-stream"
            )
        # Whether the client has gone is looked at, too: else it would hold a thread until the next heartbeat.
        chunks = tasks.log.read(
            task_id,
            owner=owner(),
            last_event_id=request.headers.get("Last-Event-ID"),
            heartbeat=tasks.settings.heartbeat,
            gone=request.environ.get("waitress.client_disconnected"),
        )
        return Response(begin_stream(chunks), mimetype="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.post("/v1/tasks/<task_id>/cancel")
    def cancel(task_id: str) -> tuple[str, int]:
        tasks.cancel(task_id, owner())
        return "", 204

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(prometheus_client.generate_latest(registry), content_type=prometheus_client.CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    def healthz() -> tuple[Response, int]:
        replicas = [
            {
                "id": one.settings.id,
                "engine": one.settings.engine,
                "pool": one.settings.pool,
                "slots": one.settings.slots,
                "busy": one.busy,
                "rests": one.rests,
            }
            for one in tasks.replicas
        ]
        ok = not all(one["rests"] for one in replicas)
        return jsonify(ok=ok, waiting=tasks.waiting, replicas=replicas), 200 if ok else 503

    @app.get("/")
    def page() -> Response:
        return Response(PAGE.read_bytes(), mimetype="text/html")

    return app
