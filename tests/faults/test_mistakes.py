"""Callers' mistakes: InvalidRequestError that names the field and what is meant, before any I/O, for every dialect."""

from __future__ import annotations

import datetime
import enum
import fractions
import logging
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

import worker_adapters as wa
from worker_adapters import GenerateRequest, InvalidRequestError, WorkerError, connect, http_status
from worker_adapters.testing.server import nobody_there
from worker_adapters.transport import opening

from .hostile import ENGINES, NETWORKED, answering, bound, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "http://127.0.0.1:9"
NESTED: list[Any] = []
NESTED.append(NESTED)
DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000
FIELDS: dict[str, list[Any]] = {
    "prompt": [b"x", 5, ["a"], "\ud800"],
    "prompt_tokens": [5, "abc", b"abc", [1.5], [-1], [], ["1"], [True], [2**31], [None]],
    "max_tokens": ["5", 0, True, None, 1.5, 10**300, -1],
    "temperature": ["0.7", None, float("nan"), float("inf"), -1, 10**300, 10**5000, 1 + 0j, [],
                    datetime.timedelta(1)],
    "top_p": [1.5, 0, "1", None, 10**300, float("nan")],
    "top_k": [-1, 0.5, "1", None, 10**300],
    "min_p": [1.5, "1", None, 10**300],
    "repetition_penalty": [0, -1, None, 10**300, "1"],
    "presence_penalty": [3, None, 10**300, "1"],
    "frequency_penalty": [3, None, 10**300, "1"],
    "stop": [5, [5], [""], ["a"] * 5, b"x", [b"x"], [None], "\udc00"],
    "seed": ["x", -1, 2**64, 1.5, True, 10**300],
    "deadline": [0, -1, "5", float("nan"), float("inf"), 10**400, datetime.timedelta(seconds=1)],
    "task_id": [5, "", "a\nb", "a\x1b[2Jb", "a\rb", "a\u2028b", None, b"x", "x" * 10_000],
    "determinism": ["stric", 5, None, []],
    "on_degraded": ["x", 5, {}],
    "priority": ["high", 5, ()],
    "sampler_profile_version": ["v2", 1, None, []],
    "ignore_eos": ["yes", 1, None],
    "return_token_ids": ["yes", 0, None],
    "logprobs": ["2", -1, 1.5, True, 10**300],
    "model": [5, "", "a\nb", b"x"],
    "json_schema": [5, [], "not json", "[]", '{"a":NaN}', {"type": object}, {"a": float("nan")}, {1: 2}, {"a": NESTED}, DEEP,
                    b"{}", {"a": 10**300}, {"a": {1, 2}}, {"a": b"x"}],
    "regex": [5, "", b"x", "\ud800"],
    "grammar": [5, "", b"root ::= x", "\ud800"],
    "session_id": [{"a": 1}, 5, "a\nb", ""],
    "correlation_id": [5, "a\r\nX-Injected: 1", ""],
    "engine_options": [[1], {1: 2}, 5, "unchecked", {"unchecked": 5}, {"unchecked": {"f": object()}}, {"nonsense": 1},
                       {"unchecked": {"f": float("inf")}}, {"unchecked": {"f": 10**300}}, {"unchecked": {"f": NESTED}},
                       {"unchecked": {"f": b"x"}}, {"unchecked": {"f": {1, 2}}}, {"unchecked": {"f": {5: 1}}}, None],
}  # fmt: skip


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever would connect, or look a name up, fails the test."""

    def never(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("I/O")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", never)
        patch.setattr(socket.socket, "connect_ex", never)
        patch.setattr(socket, "getaddrinfo", never)
        yield


def ways(adapter: Any) -> tuple[Any, ...]:
    return adapter.submit, adapter.stream, adapter.generate


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.usefixtures("offline")
def test_a_wrong_field_is_refused_by_its_name(engine: str, field: str) -> None:
    with connect(engine, URL, model="m") as adapter:
        for value in FIELDS[field]:
            fields = {field: value} if field == "prompt_tokens" else {"prompt": "p", field: value}
            request = GenerateRequest(**fields)
            for way in ways(adapter):
                with pytest.raises(InvalidRequestError) as caught:
                    way(request)
                error = caught.value.error
                assert error.code == "INVALID_PARAMS", repr(value)[:80]
                assert http_status(error.code) == 400
                if error.reason == "VALIDATION":
                    assert field in error.message or (field, "stop string" in error.message) == ("stop", True), (
                        error.message
                    )
                assert len(error.message) <= 500
                assert error.message.isprintable()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("request_", ["Once upon a time", {"prompt": "x"}, None, 5, GenerateRequest])
@pytest.mark.usefixtures("offline")
def test_what_is_no_request(engine: str, request_: Any) -> None:
    with connect(engine, URL) as adapter:
        for way in ways(adapter):
            with pytest.raises(InvalidRequestError, match=r"GenerateRequest\(prompt="):
                way(request_)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("timeouts", [5, {"idle": 5}, "5", True])
def test_timeouts_of_one_call(timeouts: Any) -> None:
    with connect("vllm", URL) as adapter:
        for way in ways(adapter):
            with pytest.raises(InvalidRequestError, match="timeouts must be a Timeouts"):
                way(GenerateRequest(prompt="p"), timeouts=timeouts)


ARGUMENTS: dict[str, list[Any]] = {
    "url": [None, b"http://h", 5, "", "localhost:8080", "127.0.0.1:8080", "h", "ftp://h", "http://", "http://h:99999", "http://u:p@h"],
    "metrics_url": [b"http://h", 5, "localhost:8002", "h?x=1"],
    "timeouts": [5, 0, {"connect": 5}, "5", False, wa.Timeouts],
    "retry": [3, 0, False, {"attempts": 1}],
    "tls": [False, True, 0, "/ca.pem"],
    "limits": [5, 0, {"max_in_flight": 1}],
    "identity": ["x", {}, 0],
    "metrics": [True, False, CollectorRegistry(), 0, SimpleNamespace(registry=5)],
    "pool_id": [None, 5, "", "a\nb"],
    "replica_id": [5, "", b"r", "a\x1b"],
    "model": [5, "", b"m", "a\nb"],
    "credentials": [123456789, b"hush-hush", "", "hush-hush\n", "hüsh-hush", ["hush-hush"]],
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.usefixtures("offline")
def test_a_wrong_argument_of_connect_is_refused_by_its_name(engine: str, argument: str) -> None:
    for value in ARGUMENTS[argument]:
        if engine == "mock" and isinstance(value, str) and "://" in value:
            continue  # which takes whatever URL
        with pytest.raises(InvalidRequestError) as caught:
            connect(engine, **{"url": URL, argument: value})
        said = str(caught.value)
        assert argument in said or "URL" in said, said
        assert "hush" not in said
        assert "123456789" not in said
        assert engine.startswith(caught.value.error.engine or "-")


@pytest.mark.parametrize(
    ("url", "meant"),
    [("localhost:8080", "http://localhost:8080"), ("10.0.0.7", "http://10.0.0.7"), ("h:1/v1", "http://h:1/v1")],
)
def test_a_url_without_its_scheme_is_completed_in_words(url: str, meant: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"did you mean {meant}"):
        connect("vllm", url)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("vLLM", "did you mean 'vllm'"),
        ("llama.cpp", "did you mean 'llamacpp'"),
        ("openai", "there are:"),
        (dict, "the class dict"),
        (None, "None"),
        (5, "5"),
        ("http://h", "connect(engine, url)"),
    ],
)
def test_an_engine_that_is_none(engine: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        connect(engine, "vllm" if "://" in str(engine) else URL)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (wa.Timeouts, {"connect": "5", "first_token": True, "idle": [], "probe": None}),
        (wa.Retry, {"attempts": "3", "base": None, "cap": "x", "max_retry_after": True, "random": 5}),
        (wa.Limits, {"max_in_flight": 1.5, "hand_over": "1", "max_event_size": True, "stall": None}),
        (wa.TLS, {"verify": "no", "ca_bundle": 5, "client_cert": b"x", "client_key": "", "server_hostname": 5}),
        (wa.Identity, {"model_digest": 5, "engine_version": b"x", "trtllm_version": ""}),
        (wa.MetricsOptions, {"namespace": "my app"}),
    ],
)
def test_a_record_names_its_field(record: Any, fields: dict[str, Any]) -> None:
    for field, value in fields.items():
        with pytest.raises(ValueError, match=field):
            record(**{field: value})


class Level(enum.IntEnum):
    LOW = 3


@pytest.mark.parametrize("engine", NETWORKED)
def test_numpys_scalars_are_taken(engine: str) -> None:
    np = pytest.importorskip("numpy")
    request = GenerateRequest(
        prompt=np.str_("p"),
        max_tokens=np.int64(3),
        temperature=np.float32(0.5),
        top_p=np.longdouble(1.0),
        top_k=np.array(0),
        seed=np.uint32(7),
        deadline=np.float64(60),
        ignore_eos=np.bool_(False),
        stop=np.array(["a", "b"]),
        engine_options={"unchecked": {"x": np.float16(1.5), "y": np.arange(3), "z": [np.int8(1)]}},
    )
    assert (type(request.max_tokens), type(request.temperature), type(request.ignore_eos)) == (int, float, bool)
    assert request.engine_options == {"unchecked": {"x": 1.5, "y": [0, 1, 2], "z": [1]}}
    assert hash(request) == hash(request)
    timeouts = wa.Timeouts(connect=np.float32(5), probe=np.int64(5))
    limits = wa.Limits(max_in_flight=np.int64(5))
    with (
        answering(lambda _: reply(b"", status="404 No")) as url,
        bound(engine, url, timeouts=timeouts, limits=limits) as adapter,
    ):
        (*_, error) = adapter.stream(request)
    assert error.reason in ("UPSTREAM_NOT_FOUND", "UNSUPPORTED"), error


def test_ids_of_numpy_and_numbers_of_other_kinds() -> None:
    np = pytest.importorskip("numpy")
    assert GenerateRequest(prompt_tokens=np.array([1, 2])).prompt_tokens == (1, 2)
    with connect("vllm", URL) as adapter, pytest.raises(InvalidRequestError, match="temperature"):
        adapter.submit(GenerateRequest(prompt="p", temperature=fractions.Fraction(1, 2)))  # type: ignore[arg-type]  # so it is
    assert GenerateRequest(prompt="p", top_k=Level.LOW).top_k == 3


CANT = {
    "llamacpp": {"regex": "a"},
    "tgi": {"presence_penalty": 1.0},
    "triton-vllm": {"regex": "a"},
    "triton-trtllm": {"ignore_eos": True},
    "triton-llmapi": {"logprobs": 1},
    "triton": {"regex": "a"},
    "trtllm": {"logprobs": 1},
    "mock": {"regex": "a"},
}


@pytest.mark.parametrize("engine", CANT)
@pytest.mark.usefixtures("offline")
def test_what_a_dialect_can_not_express_is_the_callers_to_change(engine: str) -> None:
    with connect(engine, URL, model="m") as adapter:
        for way in ways(adapter):
            with pytest.raises(InvalidRequestError) as caught:
                way(GenerateRequest(prompt="p", **CANT[engine]))
            assert (caught.value.code, caught.value.reason) == ("INVALID_PARAMS", "UNSUPPORTED")
            assert http_status(caught.value.code) == 400


@pytest.mark.usefixtures("offline")
def test_a_probe_that_a_dialect_has_not() -> None:
    with connect("tgi", URL) as adapter:
        for ask in (lambda: adapter.detokenize([1]), lambda: adapter.tokenize("x")):
            with pytest.raises(WorkerError) as caught:
                ask()
            assert (caught.value.code, caught.value.reason) == ("INVALID_PARAMS", "UNSUPPORTED")


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("engine", NETWORKED)
@pytest.mark.parametrize("kind", [BrokenError, KeyError, OSError, SystemExit, RecursionError])
def test_a_provider_that_raises_is_typed_and_says_nothing_of_its_secret(engine: str, kind: type[BaseException]) -> None:
    def provider() -> str:
        raise kind("the vault said hush-hush")

    with nobody_there() as url, bound(engine, url, credentials=provider) as adapter:
        for way in (adapter.submit, adapter.stream):
            (error,) = way(GenerateRequest(prompt="p"))
            assert error.reason == "UPSTREAM_AUTH"
            assert kind.__name__ in error.message
            assert "hush" not in repr(error)
        with pytest.raises(WorkerError) as caught:
            adapter.properties()
        assert "hush" not in repr(caught.value)
        assert "hush" not in adapter.health().detail


class _Point:
    name = "broken-engine"
    value = "somewhere:DIALECT"

    def load(self) -> Any:
        raise BrokenError("hush-hush")


def test_an_entry_point_that_raises_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata  # noqa: PLC0415  -- patched there

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "entry_points", lambda **_: [_Point()])
        with pytest.raises(InvalidRequestError, match="can't be loaded: BrokenError") as caught:
            connect("broken-engine", URL)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_field_forges_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with connect("mock", "mock://local") as adapter, caplog.at_level(logging.INFO, "worker_adapters"):
        for field in ("task_id", "session_id", "correlation_id"):
            with pytest.raises(InvalidRequestError):
                adapter.generate(GenerateRequest(prompt="p", **{field: "x\nERROR forged"}))
    assert "forged" not in caplog.text


def test_a_request_is_hashable_and_its_parts_can_not_be_changed() -> None:
    options = {"unchecked": {"a": [1, {"b": 2}]}}
    request = GenerateRequest(prompt="p", task_id="t", json_schema={"required": ["a"]}, engine_options=options)
    again = GenerateRequest(prompt="p", task_id="t", json_schema={"required": ["a"]}, engine_options=options)
    assert {request: 1}[again] == 1
    options["unchecked"]["a"] = []  # the caller's own
    parts = request.engine_options["unchecked"], request.engine_options["unchecked"]["a"], request.json_schema
    assert parts == ({"a": [1, {"b": 2}]}, [1, {"b": 2}], {"required": ["a"]})
    for change in (
        lambda: parts[0].update(a=1),
        lambda: parts[0].__setitem__("a", 1),
        lambda: parts[0].pop("a"),
        lambda: parts[1].append(1),
        parts[1].sort,
        parts[2].clear,
        lambda: parts[2].setdefault("x", 1),
    ):
        with pytest.raises(TypeError, match="immutable"):
            change()


def test_refusals_of_our_own_limits_are_counted() -> None:
    registry = CollectorRegistry()
    options = wa.MetricsOptions(registry=registry)
    request = GenerateRequest(prompt="p", engine_options={"rate": 1})
    limits = wa.Limits(max_in_flight=1)
    with connect("mock", "mock://local", limits=limits, metrics=options) as adapter, adapter.submit(request):
        for _ in range(3):
            with pytest.raises(wa.AdmissionRejectedError):
                adapter.submit(GenerateRequest(prompt="p"))
    found = [sample for family in registry.collect() for sample in family.samples]
    refused = [s.value for s in found if s.name.endswith("requests_total") and s.labels["outcome"] == "refused"]
    errors = [s.value for s in found if s.name.endswith("errors_total") and s.labels["reason"] == "LOCAL_LIMIT"]
    assert sum(refused) == sum(errors) == 3


def test_no_descriptor_is_a_limit_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import errno  # noqa: PLC0415  -- for this one

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with nobody_there() as url, bound("vllm", url) as adapter, monkeypatch.context() as patch:
        patch.setattr(opening, "Socket", full)
        (error,) = adapter.stream(GenerateRequest(prompt="p"))
    assert (error.code, error.reason) == ("ADMISSION_REJECT", "LOCAL_LIMIT")
