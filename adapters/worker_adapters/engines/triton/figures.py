"""What Triton's metrics tell: its own families, TensorRT-LLM's and those of vLLM's backend."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ...api import Properties
from ...exposition import samples
from .routes import Details

__all__ = ["measured"]

PENDING = "nv_inference_pending_request_count"
REQUESTS = "nv_trt_llm_request_metrics"
BLOCKS = "nv_trt_llm_kv_cache_block_metrics"
BATCHER = "nv_trt_llm_inflight_batcher_metrics"
MEMORY = "nv_trt_llm_runtime_memory_metrics"
WAITING, RUNNING, KV_USAGE = "vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"
# Families of several figures, and the label that tells them apart.
_PART = {
    REQUESTS: "request_type",
    BLOCKS: "kv_cache_block_type",
    BATCHER: "inflight_batcher_specific_metric",
    MEMORY: "memory_type",
    "nv_inference_request_failure": "reason",
}
_OF_MODEL = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    PENDING,
)  # of TensorRT-LLM's, the inner one
_DETAILS = {
    REQUESTS: "trtllm_requests",
    BLOCKS: "trtllm_kv_blocks",
    BATCHER: "trtllm_batcher",
    MEMORY: "trtllm_memory",
    "nv_inference_request_success": "requests_succeeded",
    "nv_inference_request_failure": "requests_failed",
    "nv_gpu_utilization": "gpu_utilization",
    "nv_gpu_memory_used_bytes": "gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes": "gpu_memory_total_bytes",
    "vllm:prompt_tokens_total": "vllm_prompt_tokens",
    "vllm:generation_tokens_total": "vllm_generation_tokens",
    WAITING: "vllm_requests_waiting",
    RUNNING: "vllm_requests_running",
    PENDING: "requests_pending",
}
_NAMES = frozenset({KV_USAGE, *_DETAILS})


def measured(known: Properties, page: bytes, model: str | None) -> Properties:
    """With what the page says. TensorRT-LLM's figures are of the inner model, whatever its name; vLLM's of any engine.

    Pending requests of Triton's own queue hardly count: decoupled models take in everything at once.
    """
    found = _summed(page, model)
    slots, scheduled = found.get((REQUESTS, "max")), found.get((REQUESTS, "scheduled"))
    waiting = [found[key] for key in ((REQUESTS, "waiting"), (WAITING, ""), (PENDING, "")) if key in found]
    return attrs.evolve(
        known,
        slots_total=None if slots is None else int(slots),
        slots_free=None if slots is None or scheduled is None else max(0, int(slots - scheduled)),
        queue_depth=int(sum(waiting)) if waiting else None,
        kv_usage=_kv_usage(found),
        details={**known.details, **_details(found)},
    )


def _summed(page: bytes, model: str | None) -> Mapping[tuple[str, str], float]:
    """By family and part: over versions and GPUs."""
    found: dict[tuple[str, str], float] = {}
    for sample in samples(page, _NAMES):
        if sample.name in _OF_MODEL and model is not None and sample.labels.get("model") != model:
            continue
        key = (sample.name, sample.labels.get(_PART.get(sample.name, ""), ""))
        found[key] = found.get(key, 0.0) + sample.value
    return found


def _kv_usage(found: Mapping[tuple[str, str], float]) -> float | None:
    share, used, most = (found.get((BLOCKS, part)) for part in ("fraction", "used", "max"))
    if share is None and used is not None and most:
        share = used / most
    return share if share is not None else found.get((KV_USAGE, ""))


def _details(found: Mapping[tuple[str, str], float]) -> Details:
    names = {
        (family, part): f"{_DETAILS[family]}{part and '_'}{part.lower()}"
        for family, part in found
        if family in _DETAILS
    }
    return {name: found[key] for key, name in names.items()}
