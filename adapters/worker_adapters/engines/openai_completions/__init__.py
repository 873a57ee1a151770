"""Any server's `/v1/completions`, with a table of what each does otherwise (facts: docs/engines/openai-completions.md).

`DIALECT` is for a server that no row describes; `dialect_of(row)` makes one of a row, ours or a user's.
"""

from __future__ import annotations

from functools import partial

from ...api import Features
from ...dialect import Dialect, Profile, Traits
from .errors import parse_error
from .probes import NAME, health, identify, properties
from .request import OPTIONS, against_strict, check, encode
from .rows import ANY, ROWS, Row, Sign
from .stream import decode

__all__ = ["ANY", "DIALECT", "ROWS", "Row", "Sign", "dialect_of"]


def dialect_of(row: Row) -> Dialect:
    """The dialect of a row. All have the name of the engine: which one it is shows in nothing but the requests."""
    profile = Profile(version="v1", knobs=row.knobs)
    fields = {knob.field for knob in row.knobs}
    return Dialect(
        name=NAME,
        encode=partial(encode, row, profile),
        decode=partial(decode, row),
        parse_error=parse_error,
        health=partial(health, row),
        properties=partial(properties, row),
        identify=partial(identify, row),
        features=Features(
            prompt_tokens=row.prompt_tokens,
            min_p="min_p" in fields,
            logprobs="logprobs" in fields,
            token_ids=bool(row.ids),
            ignore_eos="ignore_eos" in fields,
            adds_bos=row.adds_bos,
            engine_options=OPTIONS,
        ),
        traits=Traits(cancel=row.cancel, keep_alive=row.keep_alive, probe_interval=1.0),
        profile=profile,
        check=partial(check, profile),
        against_strict=against_strict,
    )


DIALECT = dialect_of(ANY)
MLX = dialect_of(ROWS["mlx"])
DYNAMO = dialect_of(ROWS["dynamo"])
LLAMA_CPP_PYTHON = dialect_of(ROWS["llama-cpp-python"])
LITELLM = dialect_of(ROWS["litellm"])
LLAMAFILE = dialect_of(ROWS["llamafile"])
LMDEPLOY = dialect_of(ROWS["lmdeploy"])
MAX = dialect_of(ROWS["max"])
MISTRALRS = dialect_of(ROWS["mistralrs"])
TABBYAPI = dialect_of(ROWS["tabbyapi"])
TRANSFORMERS = dialect_of(ROWS["transformers"])
VLLM = dialect_of(ROWS["vllm"])
