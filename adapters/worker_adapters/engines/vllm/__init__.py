"""vLLM's OpenAI-compatible server, on `/v1/completions` (facts and transcripts: docs/engines/vllm.md).

The chat routes are not used: prompts are rendered on our side, so that every engine gets the same.
"""

from __future__ import annotations

from ...api import Features
from ...dialect import CancelNotice, Dialect, Traits
from .errors import parse_error
from .probes import NAME, detokenize, health, identify, properties, tokenize
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
        regex=True,
        grammar=True,
        tokenize=True,
        detokenize=True,
        adds_bos=True,
        engine_options=OPTIONS,
    ),
    # uvicorn drops idle connections after 5 s: ours are not reused when that is near.
    traits=Traits(
        cancel=CancelNotice.AT_ONCE, backpressure=False, keep_alive=4.0, probe_interval=1.0, strict_uncached=True
    ),
    profile=PROFILE,
    max_seed=2**63 - 1,
    check=check,
    against_strict=against_strict,
    tokenize=tokenize,
    detokenize=detokenize,
)
