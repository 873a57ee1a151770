"""llama.cpp's llama-server, on its native API (tools/server of llama.cpp; facts and transcripts: docs/engines/llamacpp.md).

Streams run on `POST /completion` with `stream: true` always: a request that does not stream is not cancelled by closing
its connection while other slots work (server-queue.cpp, recv_with_timeout). The OpenAI-compatible routes are not used.
"""

from __future__ import annotations

from ...api import Features
from ...dialect import CancelNotice, Dialect, Traits
from .errors import parse_error
from .probes import NAME, apply_template, detokenize, health, identify, properties, tokenize
from .profile import PROFILE
from .request import OPTIONS, against_strict, check, encode
from .stream import decode

__all__ = ["DIALECT"]

DIALECT = Dialect(
    name=NAME,
    encode=encode,
    decode=decode,
    parse_error=parse_error,
    health=health,
    properties=properties,
    identify=identify,
    features=Features(
        prompt_tokens=True,
        min_p=True,
        logprobs=True,
        token_ids=True,
        ignore_eos=True,
        json_schema=True,
        grammar=True,
        tokenize=True,
        detokenize=True,
        apply_template=True,
        adds_bos=True,
        engine_options=OPTIONS,
    ),
    # A queued request's disconnect goes unnoticed while other slots work; it closes every streamed connection itself
    # although it advertises keep-alive; it never stops generating for a reader that does not read.
    traits=Traits(
        cancel=CancelNotice.NEVER_WHILE_QUEUED,
        backpressure=False,
        keep_alive=0.0,
        probe_interval=2.0,
        strict_uncached=True,
    ),
    profile=PROFILE,
    check=check,
    against_strict=against_strict,
    tokenize=tokenize,
    detokenize=detokenize,
    apply_template=apply_template,
)
