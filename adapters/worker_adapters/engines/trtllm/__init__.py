"""trtllm-serve, TensorRT-LLM's own server, on `/v1/completions` (facts: docs/engines/trtllm.md)."""

from __future__ import annotations

from ...api import Features
from ...dialect import CancelNotice, Dialect, Traits
from .errors import not_a_stream, parse_error
from .probes import NAME, health, identify, properties, tokenize
from .request import OPTIONS, PROFILE, against_strict, encode
from .stream import decode

__all__ = ["DIALECT"]

DIALECT = Dialect(
    name=NAME,
    encode=encode,
    decode=decode,
    parse_error=parse_error,
    not_a_stream=not_a_stream,
    health=health,
    properties=properties,
    identify=identify,
    features=Features(
        prompt_tokens=True, min_p=True, ignore_eos=True, tokenize=True, adds_bos=True, engine_options=OPTIONS
    ),
    # It looks after its clients once a second, queued ones too; uvicorn drops idle connections after 5 s.
    traits=Traits(cancel=CancelNotice.AT_ONCE, keep_alive=4.0, probe_interval=1.0),
    profile=PROFILE,
    max_seed=2**63 - 1,
    against_strict=against_strict,
    tokenize=tokenize,
)
