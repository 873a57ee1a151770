"""Token ids and log-probabilities of an event, where the tensors of a backend have them."""

from __future__ import annotations

import json
from typing import Any

from ...api import Reason, TokenLogprob
from ...dialect import Fault

__all__ = ["of_trtllm", "of_vllm"]


def of_vllm(told: str, listed: int) -> list[TokenLogprob]:
    """vLLM's backend tells them as JSON in a string: per token a mapping from ids, the sampled one first.

    `listed`: how many alternatives were asked for. `null` where none was. Read by Python's parser: there may be NaN in it.
    """
    try:
        tokens = json.loads(told) or ()
        return [_token([_one(int(number), entry) for number, entry in token.items()], listed) for token in tokens]
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise Fault(
            Reason.PROTOCOL, f"Triton sent logprobs that are not vLLM's ({type(exc).__name__}): {told[:200]}"
        ) from exc


def _one(number: int, entry: Any) -> TokenLogprob:
    return TokenLogprob(token=entry.get("decoded_token") or "", logprob=float(entry["logprob"]), token_id=number)


def _token(known: list[TokenLogprob], listed: int) -> TokenLogprob:
    first = known[0]
    if not listed:
        return first
    return TokenLogprob(token=first.token, logprob=first.logprob, token_id=first.token_id, top=tuple(known))


def of_trtllm(tensor: Any, text: str, seen: int) -> list[TokenLogprob]:
    """TensorRT-LLM's `output_log_probs`: numbers, of the tokens sampled and of nothing else.

    A token's text is known where an event is of one. `seen`: how many of the numbers an earlier event has told.
    """
    values = (tensor if isinstance(tensor, list) else [tensor])[seen:]
    return [TokenLogprob(token=text if len(values) == 1 else "", logprob=float(value)) for value in values]
