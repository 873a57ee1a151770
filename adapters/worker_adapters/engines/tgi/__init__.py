"""Hugging Face's text-generation-inference, on `/generate_stream` (facts and transcripts: docs/engines/tgi.md).

The OpenAI-compatible routes are not used: they sample by a penalty of their own, and name every error 422.
"""

from __future__ import annotations

from ...api import Features
from ...dialect import CancelNotice, Dialect, Traits
from .errors import parse_error
from .probes import NAME, apply_template, health, identify, properties, tokenize
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
        logprobs=True,
        token_ids=True,
        json_schema=True,
        regex=True,
        tokenize=True,
        apply_template=True,
        adds_bos=True,
        engine_options=OPTIONS,
    ),
    # It looks for closed receivers when it has a token to send, and into its queue when it makes a batch. Its own queue
    # to a connection is unbounded: it runs ahead of a reader that does not read.
    traits=Traits(cancel=CancelNotice.NEXT_WRITE, backpressure=False, keep_alive=30.0, probe_interval=1.0),
    profile=PROFILE,
    max_seed=2**64 - 1,
    check=check,
    against_strict=against_strict,
    tokenize=tokenize,
    apply_template=apply_template,
)
