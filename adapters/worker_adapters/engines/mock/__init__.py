"""The mock engine: an engine in this process, through the same codec and runtime as a real one.

`connect("mock", "mock://local")` needs no server. A request's `engine_options={"rate": 50, "fault": "stall@12:30s"}` set
its pace and its faults (see worker_adapters.faults). Its wire is the smallest that has everything an engine's wire has:
deltas, a sign of the end, usage, errors before and inside the stream. `answer` is its server side: a pure function from a
request to what a scripted transport delivers.
"""

from __future__ import annotations

from ...api import Features
from ...dialect import CancelNotice, Dialect, Traits
from .play import answer, check
from .server import reply
from .wire import (
    PROFILE,
    apply_template,
    decode,
    detokenize,
    encode,
    health,
    identify,
    parse_error,
    properties,
    tokenize,
)

__all__ = ["DIALECT", "answer", "reply"]

DIALECT = Dialect(
    name="mock",
    encode=encode,
    decode=decode,
    parse_error=parse_error,
    health=health,
    properties=properties,
    identify=identify,
    features=Features(
        prompt_tokens=True,
        min_p=True,
        token_ids=True,
        ignore_eos=True,
        tokenize=True,
        detokenize=True,
        apply_template=True,
        engine_options=frozenset({"rate", "fault", "unchecked"}),
    ),
    traits=Traits(cancel=CancelNotice.AT_ONCE, backpressure=True, keep_alive=0.0, probe_interval=0.0),
    profile=PROFILE,
    check=check,
    tokenize=tokenize,
    detokenize=detokenize,
    apply_template=apply_template,
)
