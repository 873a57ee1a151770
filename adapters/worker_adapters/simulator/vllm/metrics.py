"""`/metrics` of vLLM: the families that tell of requests, steps and the cache; those of Python and HTTP are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..seam import Setup, Slots

__all__ = ["metrics_page"]

BLOCK = 16  # tokens of a block of the cache


def metrics_page(setup: Setup, slots: Slots, ends: Mapping[str, int], rejections: Mapping[str, int]) -> str:
    """One engine's page."""
    state, totals = slots.state, slots.totals
    runs = [slot.run for slot in slots.slots if slot.run is not None]
    capacity = setup.ctx * setup.slots
    used = sum(run.size for run in runs) / capacity
    blocks = -(-capacity // BLOCK)
    cache = f'block_size="{BLOCK}",kv_cache_max_concurrency="{float(setup.slots)}",kv_cache_size_tokens="{capacity}"'
    lines: list[str] = []

    def family(name: str, kind: str, *samples: tuple[str, float], told: str = "") -> None:
        lines.append(f"# HELP vllm:{name} {told or name.replace('_', ' ').capitalize()}.")
        lines.append(f"# TYPE vllm:{name.removesuffix('_total')} {kind}")
        for labels, value in samples:
            lines.append(f'vllm:{name}{{engine="0",model_name="{setup.model}"{labels}}} {float(value)}')

    family("num_requests_running", "gauge", ("", state.active))
    family("num_requests_waiting", "gauge", ("", state.queued))
    reasons = ((',reason="capacity"', state.queued), (',reason="deferred"', 0))
    family("num_requests_waiting_by_reason", "gauge", *reasons)
    states = ("awake", "weights_offloaded", "discard_all")
    family("engine_sleep_state", "gauge", *((f',sleep_state="{name}"', name == "awake") for name in states))
    family("kv_cache_usage_perc", "gauge", ("", used))
    family("prefix_cache_queries_total", "counter", ("", totals.prompt_tokens + totals.cached_tokens))
    family("prefix_cache_hits_total", "counter", ("", totals.cached_tokens))
    family("num_preemptions_total", "counter", ("", 0))
    family("prompt_tokens_total", "counter", ("", totals.prompt_tokens))
    family("generation_tokens_total", "counter", ("", state.tokens))
    reasons_of_end = ("stop", "length", "abort", "error", "repetition")
    # Never a count for what was aborted, as with the real one.
    counts = {**ends, "abort": 0}
    family("request_success_total", "counter", *((f',finished_reason="{r}"', counts.get(r, 0)) for r in reasons_of_end))
    limits = ("max_num_queued_reqs", "max_num_queued_tokens")
    family("admission_rejections_total", "counter", *((f',reason="{r}"', rejections.get(r, 0)) for r in limits))
    lines.append("# TYPE vllm:iteration_tokens_total histogram")
    lines.append(f'vllm:iteration_tokens_total_count{{engine="0",model_name="{setup.model}"}} {float(totals.decodes)}')
    lines.append("# TYPE vllm:cache_config_info gauge")
    lines.append(f'vllm:cache_config_info{{{cache},engine="0",num_gpu_blocks="{blocks}"}} 1.0')
    return "\n".join(lines) + "\n"
