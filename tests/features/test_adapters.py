"""The steps of tests/features/adapters: each does its work at a worker over sockets, and each `Then` asserts something."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import Any

import attrs
import prometheus_client
import pytest

pytest.importorskip("pytest_bdd", reason="the extra test has pytest-bdd")

from pytest_bdd import given, parsers, scenarios, then, when

from worker_adapters import (
    Adapter,
    End,
    Error,
    Event,
    FinishReason,
    GenerateRequest,
    Health,
    Identity,
    Metrics,
    MetricsOptions,
    Properties,
    Retry,
    Started,
    Stream,
    Timeouts,
    Token,
    connect,
    http_refusal,
)
from worker_adapters.testing import SimulatedWorker
from worker_adapters.testing.server import nobody_there

from ..runtime.dialects import until

scenarios("adapters")

SAYS = ["Zoë", " says", " hi", ",", " and", " then", " bye"]


@attrs.define(eq=False)
class World:
    """What a scenario is about, and what was seen so far."""

    stack: ExitStack
    dialect: str = ""
    worker: Any = None
    url: str = ""
    options: dict[str, Any] = attrs.field(factory=dict)
    registry: Any = None
    orchestrator: Any = None
    health: Health | None = None
    properties: Properties | None = None
    answers: list[Any] = attrs.field(factory=list)
    runs: list[list[Event]] = attrs.field(factory=list)
    _adapter: Adapter | None = None

    @property
    def adapter(self) -> Adapter:
        if self._adapter is None:
            options = {
                "retry": Retry(attempts=3, base=0.0),
                "timeouts": Timeouts(first_token=5.0, idle=3.0),
                "pool_id": "p",
                "replica_id": "r0",
                **self.options,
            }
            if self.worker is None:
                self._adapter = self.stack.enter_context(connect(self.dialect, self.url, model="m", **options))
            else:
                self._adapter = self.worker.connect(self.dialect, **options)
        return self._adapter

    def ask(self, **fields: Any) -> Stream:
        return self.adapter.submit(GenerateRequest(**{"prompt": "Tell me", "max_tokens": 32, **fields}))

    @property
    def events(self) -> list[Event]:
        return self.runs[-1]

    @property
    def last(self) -> Event:
        return self.runs[-1][-1]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if type(event) is Token)


@pytest.fixture
def world():
    with ExitStack() as stack:
        yield World(stack)


def simulated(world: World, engine: str, **options: Any) -> None:
    world.dialect = engine
    world.worker = world.stack.enter_context(SimulatedWorker(engine, **options))


# --- given ------------------------------------------------------------------------------------------------------------


@given(parsers.parse('a simulated "{engine}" worker'))
def _(world, engine):
    simulated(world, engine, says=SAYS)


@given(parsers.parse('a simulated "{engine}" worker with one slot'))
def _(world, engine):
    simulated(world, engine, says=SAYS, slots=1)


@given(parsers.parse('a simulated "{engine}" worker that draws its words from the seed'))
def _(world, engine):
    simulated(world, engine)


@given(parsers.parse('a simulated "{engine}" worker that is still loading'))
def _(world, engine):
    simulated(world, engine, load_time=600.0)


@given(parsers.parse('a "{engine}" worker that has gone'))
def _(world, engine):
    world.dialect, world.url = engine, world.stack.enter_context(nobody_there())


@given(parsers.parse('its next answers meet "{faults}"'))
def _(world, faults):
    world.worker.inject(*faults.split(" ; "))


@given("metrics are kept")
def _(world):
    world.registry = prometheus_client.CollectorRegistry()
    world.options["metrics"] = MetricsOptions(registry=world.registry)


@given(parsers.parse('its model\'s digest is known to be "{digest}"'))
def _(world, digest):
    world.options["identity"] = Identity(model_digest=digest)


@given("nothing is tried again")
def _(world):
    world.options["retry"] = Retry(attempts=1)


@given("an orchestrator over it")
def _(world):
    pytest.importorskip("flask", reason="the extra test has Flask and waitress")
    from ..orchestrator.client import Client  # noqa: PLC0415  -- needs Flask

    world.orchestrator = Client.of(world.stack, [(world.dialect, world.worker.url)], slots=2)


# --- when -------------------------------------------------------------------------------------------------------------


@when("its health is asked for")
def _(world):
    world.health = world.adapter.health()


@when("it has loaded")
def _(world):
    world.worker.finish_loading()


@when("its properties are asked for")
def _(world):
    world.properties = world.adapter.properties(scrape=True)


@when("its version is asked for")
def _(world):
    world.answers.append(world.adapter.engine_version())


@when("a completion is asked for")
def _(world):
    world.runs.append(list(world.ask()))


@when(parsers.parse("a completion is asked for with seed {seed:d}"))
def _(world, seed):
    world.runs.append(list(world.ask(seed=seed)))


@when(parsers.parse("a completion is asked for with a deadline of {seconds:f} seconds"))
def _(world, seconds):
    world.runs.append(list(world.ask(deadline=seconds)))


@when("two completions are asked for at once")
def _(world):
    streams = [world.ask(), world.ask()]
    world.runs += [list(stream) for stream in streams]


@when(parsers.parse("a completion is asked for and cancelled after {count:d} tokens"))
def _(world, count):
    stream, events = world.ask(), []
    if count == 0:
        world.worker.wait_for(faults=1)
    while count and sum(type(event) is Token for event in events) < count:
        events.append(stream.get(10.0))
    stream.cancel()
    world.runs.append([*events, *stream])


@when(parsers.parse('a client asks the orchestrator for "{paths}"'))
def _(world, paths):
    for path in paths.split():
        world.answers.append(world.orchestrator.ask("POST", path, {"model": "m", "prompt": "x"}).status)


# --- then -------------------------------------------------------------------------------------------------------------


@then("it is alive and ready")
def _(world):
    assert (world.health.live, world.health.ready) == (True, True)


@then("it is not ready")
def _(world):
    assert not world.health.ready


@then("it is neither alive nor ready")
def _(world):
    assert (world.health.live, world.health.ready) == (False, False)


@then(parsers.parse('it is a "{engine}" that serves "{model}" with {slots} slots'))
def _(world, engine, model, slots):
    told = world.properties
    assert (told.engine, told.model, str(told.slots_total)) == (engine, model, slots.replace("unknown", "None"))


@then("the text is all that it said")
def _(world):
    assert text_of(world.events) == "".join(SAYS)


@then("both texts are all that it said")
def _(world):
    assert [text_of(run) for run in world.runs[-2:]] == ["".join(SAYS)] * 2


@then("the events are in order and their indexes without gaps")
def _(world):
    kinds = [type(event) for event in world.events if type(event) is not Metrics]
    tokens = [event.index for event in world.events if type(event) is Token]
    assert kinds == [Started, *[Token] * len(tokens), End]
    assert tokens == list(range(len(tokens)))


@then(parsers.parse("it ended as cancelled, with {count:d} tokens"))
def _(world, count):
    assert isinstance(world.last, End)
    assert world.last.finish_reason is FinishReason.CANCELLED
    assert sum(type(event) is Token for event in world.events) == count


@then("the worker has seen its client leave")
def _(world):
    until(lambda: world.worker.state.active == 0 and world.worker.state.cancelled == 1, 10)
    assert world.worker.state.served == 0


@then("counters and histograms moved by what was streamed")
def _(world):
    labels = {"pool_id": "p", "replica_id": "r0", "priority": "interactive"}

    def value(name: str) -> float:
        samples = [sample for family in world.registry.collect() for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if sample.labels.items() >= labels.items())

    until(lambda: value("latency_decode_ms_count") == 1)
    assert value("tokens_out_total") == world.last.tokens_out
    assert value("tokens_in_total") == (world.last.tokens_in or 0)
    assert value("latency_first_token_ms_count") == 1


@then("each is not found")
def _(world):
    assert set(world.answers) == {404}


@then("the worker was asked nothing")
def _(world):
    assert world.worker.requests == ()


@then(parsers.parse('the worker was asked to generate at "{path}" only'))
def _(world, path):
    assert {request.path for request in world.worker.generations} == {path}


@then(parsers.parse('the start tells version "{version}" and digest "{digest}"'))
def _(world, version, digest):
    started = world.events[0]
    assert (started.engine_version, started.model_digest) == (version, digest)
    assert world.answers == [version]


@then(parsers.parse("it failed as {code} for {reason}"))
def _(world, code, reason):
    assert isinstance(world.last, Error)
    assert (world.last.code, world.last.reason) == (code, reason)
    assert (world.last.pool_id, world.last.replica_id) == ("p", "r0")


@then(parsers.parse("an orchestrator would answer {status:d}, to come back in {seconds:d} seconds"))
def _(world, status, seconds):
    answered, headers, body = http_refusal(world.last, "c1")
    assert answered == status
    assert headers == {
        "X-Correlation-Id": "c1",
        "Retry-After": str(seconds),
        "X-Backoff-Ms": str(1000 * seconds),
    }
    assert json.loads(json.dumps(body))["error"]["retriable"]


@then(parsers.parse("{count:d} tokens had come"))
def _(world, count):
    assert sum(type(event) is Token for event in world.events) == count


@then(parsers.parse("the worker was asked {count:d} times, and the last was attempt {attempt:d}"))
def _(world, count, attempt):
    assert len(world.worker.generations) == count
    assert world.events[0].attempt == attempt


@then("the first two texts are the same, and the third is another one")
def _(world):
    first, second, third = map(text_of, world.runs)
    assert first == second
    assert third != first


@then(parsers.parse("the seeds that were sent and told are {seeds}"))
def _(world, seeds):
    expected = [int(seed) for seed in re.findall(r"\d+", seeds)]
    assert [run[0].seed for run in world.runs] == expected
    sent = [json.dumps(request.json) for request in world.worker.generations]
    assert all(re.search(rf"seed\W+{seed}\b", body) for body, seed in zip(sent, expected, strict=True)), sent
