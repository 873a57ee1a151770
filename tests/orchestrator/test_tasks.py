"""The example orchestrator from end to end: clients, waitress, the library, simulated engines, all over sockets."""

from __future__ import annotations

import json
import logging
import random
import re
import threading

import attrs
import pytest

from worker_adapters import End, Error, ErrorCode, FinishReason, Started, Token, registry
from worker_adapters.codec import SSEDecoder
from worker_adapters.testing.server import nobody_there

from ..mutants import everywhere
from .client import text_of, until

ENGINES = ["llamacpp", "vllm", "tgi", "triton-vllm", "triton-trtllm", "triton-llmapi", "trtllm", "sglang"]
SERVED_BY = {"openai-completions": "vllm"}
SAYS_IT_AGAIN = {"sglang", "triton-llmapi"}  # each event has all of the text so far
PHASES = ["queued", "before the head", "before the first token", "in mid-stream", "over", "unknown"]
SAYS = ["Zoë", " says:", "\r\n\n", "data: ", "🎈", " fin"]


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3600", "ADAPT-3001", "ADAPT-3003", socket=True)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_task_of_every_engine_comes_out_framed_in_order_and_byte_for_byte(orchestrator, simulated_worker, engine):
    client = orchestrator(simulated_worker(engine, says=SAYS))
    answer = client.ask("POST", "/v1/tasks", {"prompt": "x", "max_tokens": 64, "seed": 7})
    assert answer.status == 202
    assert answer.json.keys() == {"task_id", "queue_position", "predicted_start_ms"}
    task_id = answer.json["task_id"]
    assert answer.headers["location"] == f"/v1/tasks/{task_id}/stream"
    stream = client.stream(task_id)
    events = stream.events
    assert [frame.id for frame in SSEDecoder().feed(stream.body)] == [
        b"%s:%d" % (task_id.encode(), n) for n in range(len(events))
    ]
    assert isinstance(events[0], Started)
    assert (events[0].task_id, events[0].seed, events[0].queue_position) == (task_id, 7, 0)
    assert isinstance(events[-1], End)
    assert sum(isinstance(event, End | Error) for event in events) == 1
    assert [event.index for event in events if type(event) is Token] == list(
        range(sum(type(e) is Token for e in events))
    )
    assert text_of(events) == "".join(SAYS)


@pytest.mark.req("ADAPT-3600", socket=True)
def test_two_clients_of_one_task_each_get_all_of_it(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", says=SAYS * 20, rate=2000.0))
    task_id, bodies = client.submit(max_tokens=200), []
    threads = [threading.Thread(target=lambda: bodies.append(client.stream(task_id).body)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert bodies[0] == bodies[1] == client.stream(task_id).body


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.kills("skips an event when a client comes back")
def test_a_hundred_reconnects_at_random_offsets_give_the_same_bytes_as_none(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("llamacpp", says=SAYS * 40))
    task_id, rng = client.submit(max_tokens=400), random.Random(3)
    whole = client.stream(task_id).body
    for _ in range(100):
        got = whole[: rng.randrange(len(whole))]
        frames = got.count(b"\n\n")
        seen = b"".join(part + b"\n\n" for part in got.split(b"\n\n")[:frames])
        more = client.stream(task_id, last=f"{task_id}:{frames - 1}" if frames else None).body
        assert seen + more == whole


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_client_that_drops_its_connection_goes_on_while_the_task_runs(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", says=SAYS * 10, rate=200.0))
    task_id, got, last = client.submit(max_tokens=100), b"", None
    for _ in range(5):
        with client.listen(task_id, last) as chunks:
            got += next(chunks, b"")  # nothing, where it is over by now
        last = got.rpartition(b"\nid: ")[2].partition(b"\n")[0].decode()
    got += client.stream(task_id, last).body
    assert got == client.stream(task_id).body


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3002", "ADAPT-3600", socket=True)
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", ""),
        ([], ""),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "colour": 1}, "colour"),
        ({"prompt": "x", "task_id": "mine"}, "task_id"),
    ],
)
def test_what_can_not_be_right_is_a_400_with_the_field(orchestrator, simulated_worker, body, field):
    client = orchestrator(simulated_worker("vllm"))
    answer = client.ask("POST", "/v1/tasks", body)
    assert answer.status == 400
    assert answer.json["error"]["code"] == "INVALID_PARAMS"
    assert field in answer.json["error"]["fields"]


@pytest.mark.req("ADAPT-3002", socket=True)
def test_what_no_replica_can_express_is_a_400(orchestrator, simulated_worker):
    worker = simulated_worker("tgi")
    client = orchestrator(worker)
    answer = client.ask("POST", "/v1/tasks", {"prompt": "x", "min_p": 0.1})
    assert (answer.status, answer.json["error"]["reason"]) == (400, "UNSUPPORTED")
    assert worker.generations == ()


@pytest.mark.req("ADAPT-3002", "ADAPT-3600", socket=True)
def test_an_overload_upstream_is_a_429_that_says_when_to_come_back(orchestrator, simulated_worker):
    worker = simulated_worker("vllm")
    for _ in range(2):  # one is retried by the adapter
        worker.reply(429, {"error": {"message": "full", "type": "rate_limit", "code": 429}}, {"Retry-After": "0.02"})
    client = orchestrator(worker)
    answer = client.stream(client.submit({"X-Correlation-Id": "c1"}), headers={"X-Correlation-Id": "c2"})
    assert answer.status == 429
    assert (answer.headers["retry-after"], answer.headers["x-backoff-ms"]) == ("1", "20")
    assert answer.headers["x-correlation-id"] == "c2"
    error = answer.json["error"]
    assert (error["code"], error["reason"], error["replica_id"]) == ("ADMISSION_REJECT", "OVERLOADED", "r0")


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_queue_that_is_full_is_a_429(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", faults=["stall@head:forever*"]), slots=1, queue=2)
    first = client.submit()
    until(lambda: client.tasks.waiting == 0)
    for position in (0, 1):
        answer = client.ask("POST", "/v1/tasks", {"prompt": "x"})
        assert (answer.status, answer.json["queue_position"]) == (202, position)
        assert answer.json["predicted_start_ms"] > 0
    answer = client.ask("POST", "/v1/tasks", {"prompt": "x"})
    assert answer.status == 429
    assert answer.json["error"]["code"] == "QUEUE_FULL_DROP_LRU"
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["x-backoff-ms"]) >= 1000
    assert client.cancel(first) == 204


@pytest.mark.req("ADAPT-3600", socket=True)
def test_no_replica_that_is_there_is_a_503(orchestrator):
    with nobody_there() as url:
        client = orchestrator(("vllm", url), rest=60.0)
        answer = client.stream(client.submit())
        assert (answer.status, answer.json["error"]["reason"]) == (503, "CONNECT")
        again = client.ask("POST", "/v1/tasks", {"prompt": "x"})
        assert (again.status, again.json["error"]["code"]) == (503, "POOL_UNAVAILABLE")
        assert client.ask("GET", "/healthz").status == 503


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_replica_that_fails_before_it_began_is_left_for_another(orchestrator, simulated_worker):
    with nobody_there() as url:
        client = orchestrator(("vllm", url), simulated_worker("vllm", says=SAYS), rest=60.0)
        for _ in range(2):  # the second time the dead one is not even asked
            assert text_of(client.stream(client.submit()).events) == "".join(SAYS)
        health = client.ask("GET", "/healthz")
        assert [one["rests"] for one in health.json["replicas"]] == [True, False]
        assert health.status == 200


@pytest.mark.req("ADAPT-3600", socket=True)
def test_tasks_go_to_the_replica_with_most_free_slots(orchestrator, simulated_worker):
    workers = [simulated_worker("vllm", faults=["stall@2:forever*"]) for _ in range(3)]
    client = orchestrator(*workers, slots=2)
    for n in range(6):
        client.submit()
        until(lambda n=n: sum(len(worker.generations) for worker in workers) == n + 1)
    assert [len(worker.generations) for worker in workers] == [2, 2, 2]


@pytest.mark.req("ADAPT-3002", "ADAPT-3600", socket=True)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_that_breaks_off_is_an_error_frame(orchestrator, simulated_worker, engine):
    client = orchestrator(simulated_worker(engine, says=SAYS * 5, faults=["reset@4"]))
    answer = client.stream(client.submit())
    assert answer.status == 200
    *_, error = answer.events
    assert (error.code, error.pool_id, error.replica_id) == (ErrorCode.WORKER_RESET, "p", "r0")
    assert "".join(SAYS * 5).startswith(text_of(answer.events))


@pytest.mark.req("ADAPT-3005", "ADAPT-3600", socket=True)
def test_a_deadline_runs_from_when_the_task_came_whoever_it_goes_to(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", faults=["stall@2:forever*"]), slots=1)
    first, second = client.submit(), client.submit(deadline=0.2)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(client.stream(second)))
    waiting.start()
    until(lambda: client.tasks.waiting == 1)
    threading.Event().wait(0.25)  # the deadline is the subject
    client.cancel(first)
    waiting.join(30)
    (answer,) = answers
    assert (answer.status, answer.json["error"]["code"]) == (400, "DEADLINE_UNMET")
    assert answer.json["error"]["attempts"] == 0


# --- cancel and leaving -----------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.parametrize(
    "phase", ["queued", "before the head", "before the first token", "in mid-stream", "over", "unknown"]
)
def test_a_cancel_is_a_204_in_every_phase_and_as_often_as_one_likes(orchestrator, simulated_worker, phase):
    faults = {"before the head": ["stall@head:forever*"], "before the first token": ["stall@0:forever*"]}
    worker = simulated_worker(
        "vllm", says=SAYS, faults=faults.get(phase, ["stall@3:forever*"]) if phase != "over" else []
    )
    client = orchestrator(worker, slots=1)
    task_id = "no-such" if phase == "unknown" else client.submit()
    if phase == "queued":
        until(lambda: client.tasks.waiting == 0)
        first, task_id = task_id, client.submit()
    elif phase == "over":
        client.stream(task_id)
    elif phase == "in mid-stream":
        with client.listen(task_id) as chunks:
            next(chunks)
    elif phase != "unknown":
        worker.wait_for(faults=1)
    assert [client.cancel(task_id) for _ in range(3)] == [204] * 3
    if phase == "unknown":
        return
    *_, end = client.stream(task_id).events
    assert end.finish_reason is (FinishReason.STOP if phase == "over" else FinishReason.CANCELLED)
    if phase == "queued":
        client.cancel(first)


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_task_is_its_owner_s(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", says=SAYS, faults=["stall@3:forever"]))
    alice, bob = ({"Authorization": f"Bearer {name}"} for name in ("alice", "bob"))
    task_id = client.submit(alice)
    theirs, unknown = client.stream(task_id, headers=bob), client.stream("no-such", headers=bob)
    assert (theirs.status, theirs.body) == (unknown.status, unknown.body)
    assert theirs.status == 404
    assert client.cancel(task_id, headers=bob) == 204
    assert client.stream(task_id).status == 404
    until(lambda: client.ask("GET", "/healthz").json["replicas"][0]["busy"] == 1)
    assert client.cancel(task_id, headers=alice) == 204
    until(lambda: client.ask("GET", "/healthz").json["replicas"][0]["busy"] == 0)


@pytest.mark.req("ADAPT-3600", "ADAPT-3101", socket=True)
@pytest.mark.kills("looks at no connection that it serves")
def test_a_task_whose_client_has_left_is_cancelled_after_the_grace_time(orchestrator, simulated_worker):
    """Long before a heartbeat would have found out."""
    worker = simulated_worker("vllm", says=SAYS, faults=["stall@3:forever*"])
    client = orchestrator(worker, grace=60.0, heartbeat=600.0)
    task_id = client.submit()
    with client.listen(task_id) as chunks:
        next(chunks)
        client.hurry(task_id)
    is_cancelled(client, worker, task_id)


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_task_whose_client_never_comes_is_cancelled_after_the_grace_time(orchestrator, simulated_worker):
    worker = simulated_worker("vllm", says=SAYS, faults=["stall@3:forever*"])
    client = orchestrator(worker, grace=0.2)
    is_cancelled(client, worker, client.submit())


def is_cancelled(client, worker, task_id):
    """Soon, and its slot and connection are free."""
    kept = client.tasks.log._tasks[task_id]
    until(lambda: kept.over and client.tasks.replicas[0].busy == 0 and worker.state.active == 0, seconds=15.0)
    *_, end = client.stream(task_id).events
    assert end.finish_reason is FinishReason.CANCELLED


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_client_that_comes_back_in_time_keeps_its_task(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", says=SAYS * 4, rate=60.0), grace=5.0, heartbeat=0.02)
    task_id = client.submit()
    with client.listen(task_id) as chunks:
        next(chunks)
    *_, end = client.stream(task_id).events
    assert end.finish_reason is FinishReason.STOP


# --- what an operator sees --------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3004", "ADAPT-3600", socket=True)
@pytest.mark.parametrize("engine", ENGINES)
def test_counters_and_histograms_move_by_what_was_streamed(orchestrator, simulated_worker, engine):
    client = orchestrator(simulated_worker(engine, says=SAYS))
    ends = [client.stream(client.submit(priority="batch")).events[-1] for _ in range(3)]
    labels = '.*pool_id="p",.*priority="batch",.*replica_id="r0"'

    def value(name: str) -> float:
        return sum(v for k, v in client.metrics().items() if re.fullmatch(rf"{name}\{{{labels}.*\}}", k))

    until(lambda: value("latency_first_token_ms_count") == 3)
    assert value("tokens_out_total") == sum(end.tokens_out for end in ends)
    assert value("tokens_in_total") == sum(end.tokens_in or 0 for end in ends)
    assert value("latency_decode_ms_count") == 3
    assert sum(v for k, v in client.metrics().items() if k.startswith("worker_adapter_in_flight{")) == 0


@pytest.mark.req("ADAPT-3004", "ADAPT-3600", socket=True)
def test_a_correlation_id_goes_all_the_way(orchestrator, simulated_worker, caplog):
    client = orchestrator(simulated_worker("vllm", says=SAYS))
    with caplog.at_level(logging.INFO, logger="worker_adapters"):
        answer = client.ask(
            "POST", "/v1/tasks", {"prompt": "secret words", "session_id": "s1"}, {"X-Correlation-Id": "c-7"}
        )
        assert answer.headers["x-correlation-id"] == "c-7"
        client.stream(answer.json["task_id"])
        until(lambda: any(getattr(r, "task_id", None) == answer.json["task_id"] for r in caplog.records))
    (line,) = (r for r in caplog.records if getattr(r, "task_id", None) == answer.json["task_id"])
    said = (line.correlation_id, line.session_id, line.engine, line.pool_id, line.replica_id, line.tokens_out)
    assert said == ("c-7", "s1", "vllm", "p", "r0", line.tokens_out)
    assert (line.attempts, line.code, line.reason) == (1, None, None)
    assert "secret" not in json.dumps(line.__dict__, default=str)


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.parametrize("given", ["", "a" * 300])
def test_every_answer_has_a_correlation_id(orchestrator, simulated_worker, given):
    client = orchestrator(simulated_worker("vllm"))
    for method, path in [
        ("GET", "/healthz"),
        ("GET", "/nowhere"),
        ("POST", "/v1/tasks"),
        ("GET", "/v1/tasks/x/stream"),
    ]:
        said = client.ask(method, path, headers={"X-Correlation-Id": given}).headers["x-correlation-id"]
        assert said != given
        assert len(said) == 36


@pytest.mark.req("OC-ADAPT-5002", "OC-ADAPT-5021", "ADAPT-3600", socket=True)
def test_no_route_is_openai_s(orchestrator, simulated_worker):
    """What engines offer of that kind is used inwards only."""
    client = orchestrator(simulated_worker("vllm"))
    openai = [
        "completions",
        "chat/completions",
        "embeddings",
        "models",
        "responses",
        "audio/speech",
        "files",
        "batches",
    ]
    for path in openai:
        for method in ("GET", "POST"):
            for prefix in ("/v1", "", "/openai/v1"):
                assert client.ask(method, f"{prefix}/{path}", {"model": "m", "prompt": "x"}).status == 404, path
    import prometheus_client  # noqa: PLC0415
    from examples.orchestrator.app import make_app  # noqa: PLC0415

    rules = {rule.rule for rule in make_app(client.tasks, prometheus_client.CollectorRegistry()).url_map.iter_rules()}
    tasks = {"/v1/tasks", "/v1/tasks/<task_id>/stream", "/v1/tasks/<task_id>/cancel"}
    assert rules == tasks | {"/", "/healthz", "/metrics"}


@pytest.fixture
def read(monkeypatch):
    """The bytes of each payload that was read from an engine, whatever dialect is found out to go on with."""
    sizes = []

    def counted(batches):
        for batch in batches:
            sizes.extend(len(payload) + 8 for payload in batch)
            yield batch

    def counting(dialect):
        return attrs.evolve(dialect, decode=lambda batches, /, **how: dialect.decode(counted(batches), **how))

    real = registry.dialect
    monkeypatch.setattr(registry, "dialect", lambda engine: everywhere(counting)(real(engine)))
    return sizes


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.kills("records ahead of who reads", "lets the server read ahead", "leaves its send buffer to the kernel")
def test_what_is_not_read_is_not_read_from_the_engine(orchestrator, simulated_worker, read):
    """A client that stops reading: within 256 KiB beyond the sockets' buffers, nothing is read from the engine, either."""
    frozen(orchestrator, simulated_worker, read, "vllm")


@pytest.mark.product
@pytest.mark.matrix  # it waits until nothing moves
@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.parametrize("engine", [*(engine for engine in ENGINES if engine != "vllm"), "openai-completions"])
def test_what_is_not_read_is_not_read_from_any_engine(orchestrator, simulated_worker, read, engine):
    frozen(orchestrator, simulated_worker, read, engine)


def frozen(orchestrator, simulated_worker, read, engine):
    """Until nothing moves; then it reads on."""
    from examples.orchestrator import serving  # noqa: PLC0415

    worker = simulated_worker(SERVED_BY.get(engine, engine), says=[" word"] * 50_000, ctx=10**6)
    client = orchestrator((engine, worker.url, worker.model), grace=60.0)
    task_id = client.submit(max_tokens=60_000)
    with client.listen(task_id, receive_buffer=1 << 14) as body:
        got = next(body)
        kept = client.tasks.log._tasks[task_id]
        buffers = 2 * serving.SEND_BUFFER + 2 * (1 << 14)  # as Linux doubles what it is asked for
        until(lambda: kept.written > buffers / 2)
        looks = [-2, -1]
        while len({*looks[-2:], len(read)}) > 1:  # until it stands still
            looks.append(len(read))
            threading.Event().wait(0.3)
        assert kept.written <= (256 << 10) + len(got) + buffers
        assert sum(read[kept.count :]) <= (256 << 10), "read, and not recorded"
        if engine not in SAYS_IT_AGAIN:
            share = sum(read) / kept.written  # the engine's bytes for each of ours
            assert sum(read) <= (256 << 10) + (len(got) + buffers) * share
        assert not kept.over
        until(lambda: next(body, None) is None or len(read) > looks[-1])  # and goes on when it reads again
        assert client.cancel(task_id) == 204


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_client_that_takes_nothing_at_all_is_given_up(orchestrator, simulated_worker, monkeypatch):
    """It holds a thread, and its task a slot: the kernel tells when nothing was taken for long."""
    from examples.orchestrator import serving  # noqa: PLC0415

    monkeypatch.setattr(serving, "GONE_AFTER", 300)
    client = orchestrator(simulated_worker("vllm", says=[" word"] * 50_000, ctx=10**6), grace=60.0)
    task_id = client.submit(max_tokens=60_000)
    with client.listen(task_id, receive_buffer=1 << 14) as body:
        next(body)
        client.hurry(task_id)
        kept = client.tasks.log._tasks[task_id]
        until(lambda: kept.over and client.tasks.replicas[0].busy == 0)
    assert kept.readers == 0
    *_, end = client.stream(task_id, last=f"{task_id}:{kept.count - 2}").events
    assert end.finish_reason is FinishReason.CANCELLED
