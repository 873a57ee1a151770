"""The profile tables: their records, what encoders make of them, and the page generated from them."""

from __future__ import annotations

import json

import attrs
import pytest

from worker_adapters import ChatTemplate, GenerateRequest, InvalidRequestError, Reason, connect, registry
from worker_adapters.determinism import derive_seed, sampling_fields
from worker_adapters.dialect import AS_ASKED, Fault, Knob, Profile
from worker_adapters.runtime.validate import validate

from ..simulator import transcripts
from . import document, strict

LLAMACPP = registry.dialect("llamacpp")
ENGINES = registry.engine_names()

# Settings that a real llama-server echoes with every answer, and that are no knobs of the table: why.
NO_KNOBS = {
    "chat_format": "of the chat routes",
    "generation_prompt": "of the chat routes",
    "grammar": "an output constraint, sent if asked for: the server skips an empty one",
    "grammar_lazy": "of the chat routes, for tool calls",
    "grammar_triggers": "of the chat routes, for tool calls",
    "max_tokens": "another name of n_predict",
    "preserved_tokens": "of the chat routes, for tool calls",
    "reasoning_format": "of the chat routes",
    "reasoning_in_content": "of the chat routes",
    "speculative.types": "can't be set by a request: checked against strict instead",
    "stream": "no sampling",
}
# Knobs of the table that it reads (server-schema.cpp) but does not echo.
NOT_ECHOED = {
    "n_cache_reuse",
    "n_cmpl",
    "n_indent",
    "reasoning_budget_tokens",
    "reasoning_control",
    "return_progress",
    "t_max_predict_ms",
}
NO_SAMPLING = {"cache_prompt", "id_slot", "prompt", "stream"}  # what encode sends beside the table
CONSTRAINTS = {"grammar": "root ::= [a-z]+", "json_schema": '{"type": "object"}'}


def recorded_settings() -> dict[str, object]:
    body = transcripts.parse(transcripts.response("completion_stream_close"))[0].body
    return json.loads(body.rpartition(b"data: ")[2])["generation_settings"]


def body_of(**fields: object) -> dict[str, object]:
    request = GenerateRequest(**{"prompt": "p", "seed": 1, **fields})  # type: ignore[arg-type]
    return json.loads(LLAMACPP.encode(request, attempt=1).body)


def wires(profile: Profile) -> set[str]:
    return {knob.wire for knob in profile.knobs}


def test_the_table_has_exactly_the_knobs_that_a_real_llama_server_echoes():
    """A knob that a newer server has comes with its transcript, and has to be pinned or explained."""
    settings = set(recorded_settings())
    assert set(NO_KNOBS) <= settings
    assert not settings & NOT_ECHOED
    assert settings - set(NO_KNOBS) == wires(LLAMACPP.profile) - NOT_ECHOED


def test_llamacpp_sends_the_table_and_what_is_listed_here():
    pinned = wires(LLAMACPP.profile)
    assert pinned | NO_SAMPLING == set(body_of())
    for field, value in CONSTRAINTS.items():
        assert pinned | NO_SAMPLING | {field} == set(body_of(**{field: value}))
    assert pinned | NO_SAMPLING | {"model"} == set(body_of(model="m", engine_options={"lora": [], "id_slot": 1}))


def test_the_defaults_of_a_real_llama_server_are_overridden():
    """The recorded request set none of these: what its server chose differs from the neutral value, which is sent."""
    body, settings = body_of(), recorded_settings()
    theirs = {
        name
        for name in wires(LLAMACPP.profile) & set(settings)
        if body[name] != settings[name] and body[name] != pytest.approx(settings[name], rel=1e-6)
    }
    assert theirs == {"temperature", "top_k", "top_p", "min_p", "dry_penalty_last_n", "n_predict"}


@pytest.mark.parametrize("engine", ENGINES)
def test_no_wire_name_stands_twice(engine):
    profile = registry.dialect(engine).profile
    assert profile.knobs
    assert len(profile.knobs) == len(wires(profile))


@pytest.mark.parametrize("engine", ENGINES)
def test_neutral_is_what_a_request_says_that_asks_for_nothing(engine):
    """Else the page would say one thing and the wire another; every row names a field that requests have."""
    profile = registry.dialect(engine).profile
    bare = GenerateRequest(prompt="p", seed=1)
    assert {k.field for k in profile.knobs} - {None} <= {a.name for a in attrs.fields(GenerateRequest)}
    for knob in profile.knobs:
        if knob.neutral is AS_ASKED:
            assert knob.field in {"seed", "max_tokens"}, f"{knob.wire}: which value switches it off?"
        elif knob.field is not None:
            assert knob.neutral == knob.convert(getattr(bare, knob.field)), knob.wire


SAMPLING = {
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.5,
    "repetition_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 2,
    "ignore_eos": True,
    "logprobs": 2,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("field", SAMPLING)
def test_what_is_asked_for_is_sent_or_refused(engine, field):
    """Never ignored: a field that no knob of an engine carries is refused before anything is sent."""
    dialect = registry.dialect(engine)
    asked = GenerateRequest(prompt="p", **{"seed": 1, field: SAMPLING[field]})  # type: ignore[arg-type]
    try:
        validate(asked, dialect)
    except Fault as fault:
        assert fault.reason in (Reason.UNSUPPORTED, Reason.VALIDATION)  # noqa: PT017  -- either way is right
        return
    assert sampling_fields(dialect.profile, asked) != sampling_fields(
        dialect.profile, GenerateRequest(prompt="p", seed=1)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_seeds_out_of_range_are_refused_and_no_seed_is_wrapped(engine):
    dialect = registry.dialect(engine)
    (wire,) = (knob.wire for knob in dialect.profile.knobs if knob.field == "seed")
    greatest = GenerateRequest(prompt="p", seed=dialect.max_seed)
    validate(greatest, dialect)
    assert sampling_fields(dialect.profile, greatest)[wire] == dialect.max_seed
    for seed in (-1, dialect.max_seed + 1, True, 1.5):
        with pytest.raises(Fault, match="seed must be an integer from 0 to") as fault:
            validate(GenerateRequest(prompt="p", seed=seed), dialect)  # type: ignore[arg-type]
        assert fault.value.reason is Reason.VALIDATION


@pytest.mark.parametrize("engine", ENGINES)
def test_a_derived_seed_is_in_range(engine):
    assert registry.dialect(engine).max_seed >= 2**32 - 2


def test_a_seed_out_of_range_is_invalid_params_to_the_caller():
    with (
        connect("llamacpp", "http://127.0.0.1:9") as adapter,
        pytest.raises(InvalidRequestError, match="4294967294") as refused,
    ):
        adapter.submit(GenerateRequest(prompt="p", seed=2**32 - 1))
    assert refused.value.error.code == "INVALID_PARAMS"


def test_derived_seeds_are_pinned():
    """They are part of the determinism key: another derivation would change every answer of requests without a seed."""
    assert (derive_seed("task-1"), derive_seed("é")) == (1449853991, 2504344770)


# The shape, on the awkward rules of other engines: TGI refuses temperature 0 and top_p 1, and samples as soon as one of
# them is there; TensorRT-LLM is greedy by top_k 1.
STRICT_WIRE = Profile(
    knobs=(
        Knob(field="max_tokens", wire="max_new_tokens"),
        Knob(field="temperature", wire="do_sample", neutral=True, convert=bool),
        Knob(field="temperature", wire="temperature", neutral=1.0, greedy=1.0, absent="absent, it is 1"),
        Knob(field="top_p", wire="top_p", neutral=1.0, greedy=1.0, absent="1 is refused"),
        Knob(field="top_k", wire="top_k", neutral=0, greedy=1),
        Knob(wire="typical_p", neutral=1.0, absent="1 is refused"),
        Knob(wire="watermark", neutral=False),
    )
)
ALWAYS = {"max_new_tokens": 256, "watermark": False}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"do_sample": True, "top_k": 0}),
        ({"temperature": 0.5, "top_p": 0.9}, {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}),
        ({"temperature": 0.0, "top_p": 0.9, "top_k": 9}, {"do_sample": False, "top_k": 1}),
        ({"temperature": 0}, {"do_sample": False, "top_k": 1}),
    ],
)
def test_a_table_can_say_what_awkward_wires_need(asked, sent):
    assert {**ALWAYS, **sent} == sampling_fields(STRICT_WIRE, GenerateRequest(prompt="p", **asked))


@pytest.mark.parametrize("knob", [{}, {"field": "seed", "absent": "why"}])
def test_a_knob_that_has_no_value_is_refused(knob):
    with pytest.raises(ValueError, match="needs a neutral value"):
        Knob(wire="x", **knob)


def test_the_page_is_up_to_date():
    assert document.PATH.read_text(encoding="utf-8") == document.text(), "run: python -m tests.determinism.document"


def test_the_tables_of_strict_are_up_to_date():
    assert strict.PATH.read_text(encoding="utf-8") == strict.page(), "run: python -m tests.determinism.strict"


@pytest.mark.parametrize("name", [name for name, _ in strict._dialects()])
def test_a_rendered_prompt_is_sent_with_the_bos_that_its_server_leaves_to_us_and_without_one_that_it_adds(name):
    """What the table says of each dialect is what goes out, and a server that can be told to add it is told."""
    dialect = registry.dialect(name)
    template = ChatTemplate("{{ bos_token }}hello", special_tokens={"bos_token": "<s>"})
    prompt = template.render([], features=dialect.features)
    assert prompt == ("hello" if dialect.features.adds_bos else "<s>hello")
    body = dialect.encode(GenerateRequest(prompt=prompt, seed=1, task_id="t", max_tokens=2), attempt=1).body.decode()
    assert body.count("hello") == 1
    assert body.count("<s>") == (not dialect.features.adds_bos)
    assert '"add_special_tokens":false' not in body.replace(" ", "")
