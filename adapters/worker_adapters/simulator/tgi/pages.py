"""TGI's pages about itself, and its tokenizer routes: /info, /metrics, /v1/models, /tokenize, /chat_tokenize."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .fields import Limits, Release, TypeMismatchError

if TYPE_CHECKING:
    from ..seam import Setup, Slots
    from ..source import Vocabulary

__all__ = ["info_page", "metrics_page", "models_page", "templated", "tokenized"]


def info_page(
    setup: Setup, release: Release, limits: Limits, *, concurrent: int, build: Mapping[str, str | None]
) -> dict[str, Any]:
    """`Info` in router/src/lib.rs. `build`: model_sha, sha and docker_label."""
    number = release.number
    longest = "max_input_tokens" if number >= (2, 0, 0) else "max_input_length"
    until_2_2 = number < (2, 3, 0)
    device = {"model_dtype": "torch.float16", "model_device_type": "cuda"}
    batching = {
        "waiting_served_ratio": 0.3,
        "max_batch_total_tokens": _budget(setup),
        "max_waiting_tokens": 20,
        "max_batch_size": setup.slots,
    }
    return {
        "model_id": setup.model,
        "model_sha": build["model_sha"],
        **(device if until_2_2 else {}),
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": concurrent,
        "max_best_of": 1,
        "max_stop_sequences": limits.max_stop_sequences,
        longest: limits.max_input_tokens,
        "max_total_tokens": limits.max_total_tokens,
        **(batching if until_2_2 else {}),
        "validation_workers": 2,
        **({"max_client_batch_size": 4} if number >= (2, 0, 0) else {}),
        **({} if until_2_2 else {"router": "text-generation-router"}),
        "version": release.said,
        "sha": build["sha"],
        "docker_label": build["docker_label"],
    }


def models_page(setup: Setup) -> dict[str, Any]:
    """The OpenAI-compatible list of models: one."""
    model = {"id": setup.model, "object": "model", "created": 0, "owned_by": setup.model}
    return {"object": "list", "data": [model]}


def _budget(setup: Setup) -> int:
    """--max-batch-total-tokens: what as many requests as fit into a batch may grow to."""
    return setup.ctx * setup.slots


def metrics_page(
    setup: Setup, slots: Slots, requests: int, ends: Mapping[str, int], failures: Mapping[str, int]
) -> str:
    """Gauges and counters without their histograms; what was never set is not there."""
    state = slots.state
    promised = sum(int(slot.run.task.page) for slot in slots.slots if slot.run is not None)
    gauges = {"tgi_batch_max_total_tokens": _budget(setup)}
    counters: dict[str, int] = {}
    if requests:
        gauges |= {
            "tgi_queue_size": state.queued,
            "tgi_batch_current_size": state.active,
            "tgi_batch_current_max_tokens": promised,
        }
        counters["tgi_request_count"] = requests
    if ends:
        counters["tgi_request_success"] = sum(ends.values())
    lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges.items()]
    lines += [f"# TYPE {name} counter\n{name} {value}\n" for name, value in counters.items()]
    if failures:
        told = "".join(f'tgi_request_failure{{err="{kind}"}} {count}\n' for kind, count in failures.items())
        lines.append(f"# TYPE tgi_request_failure counter\n{told}")
    return "\n".join(lines)


def tokenized(text: str, ids: Sequence[int], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """`encoding_to_tokens`: what is added to the text has no place in it."""
    return list(_placed(text, ids, vocabulary))


def _placed(text: str, ids: Sequence[int], vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    at, data = 0, text.encode()
    for number in ids:
        piece = vocabulary.raw(number)
        if number == vocabulary.bos and not data.startswith(piece, at):
            yield {"id": number, "text": "", "start": 0, "stop": 0}
            continue
        start, stop = (len(data[:end].decode("utf-8", "ignore")) for end in (at, at + len(piece)))
        at += len(piece)
        yield {"id": number, "text": text[start:stop], "start": start, "stop": stop}


def templated(body: Mapping[str, Any]) -> str:
    """The prompt that the simulated model's chat template makes. Raises TypeMismatchError."""
    messages = body.get("messages")
    if messages is None:
        raise TypeMismatchError("missing field `messages`")
    if not isinstance(messages, list):
        raise TypeMismatchError("messages: invalid type: map, expected a sequence")
    said = "".join(f"<|im_start|>{_role(message)}\n{_content(message)}<|im_end|>\n" for message in messages)
    return f"{said}<|im_start|>assistant\n"


def _role(message: Any) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise TypeMismatchError("messages[0]: missing field `role`")
    return str(message["role"])


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
