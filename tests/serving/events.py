"""Events of every kind, as hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st

from worker_adapters import (
    DeterminismLevel,
    End,
    Error,
    ErrorCode,
    FinishReason,
    FinishReasonSource,
    Metrics,
    Phase,
    Reason,
    Resumption,
    Started,
    Token,
    TokenLogprob,
    Upstream,
    UsageSource,
)

__all__ = ["events", "streams"]

anything = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)  # halves of surrogate pairs, too
words = st.none() | anything
counts = st.integers(0, 2**63 - 1)
maybe = st.none() | counts
floats = st.floats(allow_nan=False, allow_infinity=False)
ids = st.none() | st.lists(st.integers(0, 2**31), max_size=3).map(tuple)
task_ids = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)

started = st.builds(
    Started,
    task_id=task_ids,
    engine=anything,
    seed=counts,
    sampler_profile_version=anything,
    determinism=st.sampled_from(DeterminismLevel),
    attempt=counts,
    engine_version=words,
    model=words,
    model_digest=words,
    trtllm_version=words,
    determinism_reasons=st.lists(anything, max_size=2).map(tuple),
    tokens_in=maybe,
    queue_position=maybe,
    predicted_start_ms=st.none() | floats,
)
plain_logprobs = st.builds(TokenLogprob, token=anything, logprob=floats, token_id=maybe)
logprobs = st.builds(
    TokenLogprob, token=anything, logprob=floats, token_id=maybe, top=st.lists(plain_logprobs, max_size=2).map(tuple)
)
plain_tokens = st.builds(Token, index=counts, text=anything)
tokens = st.builds(
    Token, index=counts, text=anything, token_ids=ids, logprobs=st.none() | st.lists(logprobs, max_size=2).map(tuple)
)
names = anything | st.sampled_from(["event", "_event", "__event", "i", "t", "decode_ms"])
metrics = st.builds(
    Metrics, values=st.dictionaries(names, floats | st.integers(-(2**70), 2**70) | anything, max_size=4)
)
ends = st.builds(
    End,
    finish_reason=st.sampled_from(FinishReason),
    finish_reason_source=st.sampled_from(FinishReasonSource),
    tokens_out=counts,
    usage_source=st.sampled_from(UsageSource),
    finish_reason_raw=words,
    stop_text=words,
    tokens_in=maybe,
    token_ids_tail=ids,
    token_ids_complete=st.booleans(),
    decode_time_ms=floats,
    resumed=st.none()
    | st.lists(st.builds(Resumption, index=counts, replica_id=words), min_size=1, max_size=2).map(tuple),
)
errors = st.builds(
    Error,
    code=st.sampled_from(ErrorCode),
    reason=st.sampled_from(Reason),
    message=anything,
    engine=anything,
    pool_id=anything,
    replica_id=words,
    retriable=st.booleans(),
    phase=st.sampled_from(Phase),
    attempts=counts,
    engine_version=words,
    retry_after_ms=maybe,
    policy_label=words,
    upstream=st.none() | st.builds(Upstream, status=maybe, type=words, message=words),
)
events = started | plain_tokens | tokens | metrics | ends | errors
streams = st.lists(events, max_size=12)
