"""llama-server's pages about itself: /props, /slots, /metrics, /v1/models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fields import page_settings

if TYPE_CHECKING:
    from ..seam import Setup, Slot, Slots

__all__ = ["APPLICATION_JSON", "metrics_page", "models_page", "props_page", "router_page", "slots_page"]

APPLICATION_JSON = (("Content-Type", "application/json; charset=utf-8"),)
BUILD_INFO = "b1-0c1e570"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CAPABILITIES = {
    "supports_object_arguments": False,
    "supports_parallel_tool_calls": False,
    "supports_preserve_reasoning": False,
    "supports_reasoning_effort": False,
    "supports_string_content": True,
    "supports_system_role": True,
    "supports_tool_calls": False,
    "supports_tools": False,
    "supports_typed_content": False,
}


def props_page(
    setup: Setup, n_ctx: int, settings: dict[str, Any], endpoints: tuple[bool, bool, bool], media_marker: str
) -> dict[str, Any]:
    """GET /props of a server with a model; `endpoints` are slots, props, metrics."""
    return {
        "default_generation_settings": {"params": settings, "n_ctx": n_ctx},
        "total_slots": setup.slots,
        "model_alias": setup.model,
        "model_ftype": "all F32",
        "model_path": setup.model,
        "modalities": {"vision": False, "video": False, "audio": False},
        "media_marker": media_marker,
        "endpoint_slots": endpoints[0],
        "endpoint_props": endpoints[1],
        "endpoint_metrics": endpoints[2],
        "ui": False,
        "ui_settings": {},
        "chat_template": CHAT_TEMPLATE,
        "chat_template_caps": CAPABILITIES,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "build_info": BUILD_INFO,
        "is_sleeping": False,
        "cors_proxy_enabled": False,
    }


def router_page() -> dict[str, Any]:
    """GET /props of a router."""
    return {
        "role": "router",
        "max_instances": 4,
        "models_autoload": True,
        "model_alias": "llama-server",
        "model_path": "none",
        "default_generation_settings": {"params": None, "n_ctx": 0},
        "ui_settings": {},
        "build_info": BUILD_INFO,
        "cors_proxy_enabled": False,
    }


def models_page(setup: Setup, n_ctx: int, now: int) -> dict[str, Any]:
    """GET /v1/models: the same model twice, as Ollama and as OpenAI would describe it."""
    meta = {
        "vocab_type": 1,
        "n_vocab": len(setup.source.vocabulary),
        "n_ctx": n_ctx,
        "n_ctx_train": n_ctx,
        "n_embd": 64,
        "n_params": 147776,
        "size": 591104,
        "ftype": "all F32",
    }
    entry = {
        "id": setup.model,
        "aliases": [setup.model],
        "tags": [],
        "object": "model",
        "created": now,
        "owned_by": "llamacpp",
        "meta": meta,
    }
    return {"models": [_model(setup.model)], "object": "list", "data": [entry]}


def _model(name: str) -> dict[str, Any]:
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": "",
        "families": [""],
        "parameter_size": "",
        "quantization_level": "",
    }
    return {
        "name": name,
        "model": name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": "",
        "tags": [""],
        "capabilities": ["completion"],
        "parameters": "",
        "details": details,
    }


def slots_page(slots: Slots, n_ctx: int) -> list[dict[str, Any]]:
    """GET /slots. Half of the members are absent until a slot is first used, and stale once it is idle again."""
    return [_slot(slot, n_ctx) for slot in slots.slots]


def _slot(slot: Slot, n_ctx: int) -> dict[str, Any]:
    running = slot.run
    page = {"id": slot.number, "n_ctx": n_ctx, "speculative": False, "is_processing": running is not None}
    run = running or slot.previous
    if run is None:
        return page
    params = run.task.page
    budget = params["n_predict"]
    return page | {
        "id_task": run.number,
        "n_prompt_tokens": len(slot.remembered) if running is None else run.size,
        "n_prompt_tokens_processed": 0 if running is None else len(run.task.prompt) - run.cached,
        "n_prompt_tokens_cache": 0 if running is None else run.cached,
        "params": page_settings(params),
        "next_token": [
            {
                "has_next_token": running is not None,
                "has_new_line": run.new_line,
                "n_remain": -1 if running is None or budget < 0 else budget - run.decoded,
                "n_decoded": 0 if running is None else run.decoded,
            }
        ],
    }


METRICS = (
    ("counter", "prompt_tokens_total", "Number of prompt tokens processed, excluding cached tokens"),
    ("counter", "prompt_tokens_cached_total", "Number of prompt tokens reused from the cache"),
    ("counter", "prompt_seconds_total", "Total time spent processing prompts"),
    ("counter", "tokens_predicted_total", "Number of generation tokens processed"),
    ("counter", "tokens_predicted_seconds_total", "Total time spent generating tokens"),
    (
        "counter",
        "n_decode_total",
        "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding",
    ),
    ("counter", "n_tokens_max", "Largest observed sequence length (prompt + generation)"),
    ("counter", "spec_decode_num_draft_tokens_total", "Speculative: Total draft tokens generated"),
    (
        "counter",
        "spec_decode_num_accepted_tokens_total",
        "Speculative: Total draft tokens accepted by the target model",
    ),
    ("counter", "spec_decode_num_drafts_total", "Speculative: Total speculative decoding verification steps"),
    ("gauge", "prompt_tokens_seconds", "Average prompt throughput in tokens/s"),
    ("gauge", "predicted_tokens_seconds", "Average generation throughput in tokens/s"),
    ("gauge", "requests_processing", "Number of requests processing"),
    ("gauge", "requests_deferred", "Number of requests deferred"),
    ("gauge", "n_busy_slots_per_decode", "Average number of busy slots per llama_decode() call"),
)


def metrics_page(slots: Slots) -> str:
    """GET /metrics. The two rates are over all time here, where the engine starts a new window with each scrape."""
    totals, state = slots.totals, slots.state
    values: tuple[float, ...] = (
        totals.prompt_tokens,
        totals.cached_tokens,
        totals.prompt_seconds,
        totals.predicted,
        totals.predicted_seconds,
        totals.decodes,
        totals.longest,
        *(0, 0, 0),
        _rate(totals.prompt_tokens, totals.prompt_seconds),
        _rate(totals.predicted, totals.predicted_seconds),
        state.active,
        state.queued,
        1.0 if totals.decodes else 0.0,
    )
    # The engine prints doubles through a C++ stream: six significant digits.
    return "".join(
        f"# HELP llamacpp:{name} {text}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value:g}\n"
        for (kind, name, text), value in zip(METRICS, values, strict=True)
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0
