"""Token ids and log-probabilities of an event, where the tensors of a backend have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...api import TokenLogprob
from ...lenient import likelihood, loads, mapped

__all__ = ["of_trtllm", "of_vllm"]


def of_vllm(told: object, listed: int, text: str, due: int) -> list[TokenLogprob]:
    """vLLM's backend tells them as JSON in a string: per token a mapping from ids, the sampled one first.

    `listed`: how many alternatives were asked for. `null` where no token came. Read by Python's parser: there may be NaN in
    it. Where it is something else, there is one for each of the `due` tokens nevertheless, without a number.
    """
    try:
        tokens = loads(told.encode("utf-8", "replace")) if isinstance(told, str) else None
    except ValueError:
        tokens = None
    if not isinstance(tokens, list):
        return [TokenLogprob(token=text if due == 1 else "", logprob=likelihood(None))] * due
    return [_token([_one(number, mapped(entry)) for number, entry in mapped(one).items()], listed) for one in tokens]


def _one(number: str, entry: Mapping[str, Any]) -> TokenLogprob:
    token = entry.get("decoded_token")
    return TokenLogprob(
        token=token if isinstance(token, str) else "",
        logprob=likelihood(entry.get("logprob")),
        token_id=int(number) if number.isascii() and number.isdecimal() and len(number) < 19 else None,
    )


def _token(known: list[TokenLogprob], listed: int) -> TokenLogprob:
    first = known[0] if known else TokenLogprob(token="", logprob=likelihood(None))
    if not listed:
        return first
    return TokenLogprob(token=first.token, logprob=first.logprob, token_id=first.token_id, top=tuple(known))


def of_trtllm(tensor: Any, text: str, seen: int) -> list[TokenLogprob]:
    """TensorRT-LLM's `output_log_probs`: numbers, of the tokens sampled and of nothing else.

    A token's text is known where an event is of one. `seen`: how many of the numbers an earlier event has told.
    """
    values = (tensor if isinstance(tensor, list) else [tensor])[seen:]
    return [TokenLogprob(token=text if len(values) == 1 else "", logprob=likelihood(value)) for value in values]
