"""What a vLLM tells on `/metrics`, per engine: a server with data parallelism has several."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ...exposition import samples

__all__ = ["NO_GAUGES", "Gauges", "read_gauges"]

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_USAGE = "vllm:kv_cache_usage_perc"
SLEEP = "vllm:engine_sleep_state"
STEPS = "vllm:iteration_tokens_total_count"
CACHE = "vllm:cache_config_info"
DRAFTS = "vllm:spec_decode_num_drafts_total"
_NAMES = frozenset({RUNNING, WAITING, KV_USAGE, SLEEP, STEPS, CACHE, DRAFTS})


@attrs.frozen(kw_only=True)
class Gauges:
    """By engine: requests running and waiting, share of the KV cache in use, steps made so far, concurrency.

    `asleep`: how those sleep that do. `speculative`: there is a drafter.
    """

    running: Mapping[str, float] = attrs.field(factory=dict)
    waiting: Mapping[str, float] = attrs.field(factory=dict)
    kv: Mapping[str, float] = attrs.field(factory=dict)
    steps: Mapping[str, float] = attrs.field(factory=dict)
    concurrency: Mapping[str, float] = attrs.field(factory=dict)
    asleep: tuple[str, ...] = ()
    speculative: bool = False

    @property
    def total_running(self) -> int | None:
        """Of all engines."""
        return int(sum(self.running.values())) if self.running else None

    @property
    def total_waiting(self) -> int | None:
        """Of all engines."""
        return int(sum(self.waiting.values())) if self.waiting else None

    @property
    def kv_usage(self) -> float | None:
        """The mean: engines of one server are of one size."""
        return sum(self.kv.values()) / len(self.kv) if self.kv else None

    @property
    def capacity(self) -> int | None:
        """Requests of the full context length that the KV caches hold at once, by the engine's own reckoning."""
        return sum(max(1, int(value)) for value in self.concurrency.values()) if self.concurrency else None


NO_GAUGES = Gauges()


def read_gauges(page: bytes) -> Gauges:
    """The page's gauges; those it does not have are empty (--disable-log-stats)."""
    found: dict[str, dict[str, float]] = {name: {} for name in _NAMES}
    asleep = []
    for sample in samples(page, _NAMES):
        engine, value = sample.labels.get("engine", ""), sample.value
        if sample.name == SLEEP:
            if value and sample.labels.get("sleep_state") != "awake":
                asleep.append(sample.labels.get("sleep_state", ""))
        elif sample.name == CACHE:
            try:
                found[CACHE][engine] = float(sample.labels["kv_cache_max_concurrency"])
            except (LookupError, ValueError):  # versions that do not tell, or tell None
                continue
        else:
            found[sample.name][engine] = found[sample.name].get(engine, 0.0) + value
    return Gauges(
        running=found[RUNNING],
        waiting=found[WAITING],
        kv=found[KV_USAGE],
        steps=found[STEPS],
        concurrency=found[CACHE],
        asleep=tuple(asleep),
        speculative=bool(found[DRAFTS]),
    )
