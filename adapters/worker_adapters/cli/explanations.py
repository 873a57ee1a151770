"""What happened and what to do, for every code and every reason: shown by `explain`, and written as docs/errors/."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from worker_adapters import ErrorCode, Reason

__all__ = ["CODES", "REASONS", "Explanation"]


@attrs.frozen
class Explanation:
    """Two paragraphs of plain text."""

    happened: str
    do: str


CODES: Mapping[ErrorCode, Explanation] = {
    ErrorCode.POOL_UNAVAILABLE: Explanation(
        "Nothing came of the request before its first token: no connection, no answer in time, or one that was a failure. "
        "Nothing was handed to the consumer.",
        "Try another worker. The reason tells whether the network, the machine or the engine is to be looked at.",
    ),
    ErrorCode.POOL_UNREADY: Explanation(
        "The worker is there and can't serve: it loads its model, sleeps, or is of a version that can't be used.",
        "Try another worker, and this one later: `adapter.wait_ready(600)` waits for it.",
    ),
    ErrorCode.ADMISSION_REJECT: Explanation(
        "There is no room now: at the engine, or within the adapter's own limits.",
        "Wait for `retry_after_ms` if it is given, or try another worker. If it is usual, there are too few workers, or the "
        "limits are too low.",
    ),
    ErrorCode.INVALID_PARAMS: Explanation(
        "The request can't be right: no worker of this engine would take it.",
        "Change the request; the message names the field. Trying again is of no use.",
    ),
    ErrorCode.INTERNAL: Explanation(
        "Something is set up wrongly, the worker does not speak the protocol it should, or this library has a fault.",
        "Look at the reason. None of them goes away by trying again.",
    ),
    ErrorCode.WORKER_RESET: Explanation(
        "The stream had begun and was cut: the worker died or gave up, or the connection broke. `partial` has what came.",
        "Submit the request again, best elsewhere; with the same seed and strict determinism the same text comes. What had "
        "been shown already is the caller's to reconcile: no adapter sends a token twice.",
    ),
    ErrorCode.DECODE_TIMEOUT: Explanation(
        "The stream had begun and then nothing came for `timeouts.idle` seconds, keep-alives not counted.",
        "Look at the worker: one that hangs, or is so full that it preempts requests. If pauses are usual, raise `idle`.",
    ),
    ErrorCode.DEADLINE_UNMET: Explanation(
        "The request's own `deadline` passed, all attempts and waits included.",
        "Nothing, if the answer would be of no use any more. Else a longer deadline, fewer tokens, or more workers.",
    ),
    ErrorCode.QUEUE_FULL_DROP_LRU: Explanation(
        "An orchestrator dropped the task that had waited longest because its queue was full. Adapters never raise this.",
        "Submit again after `retry_after_ms`.",
    ),
    ErrorCode.REPLICA_EXHAUSTED: Explanation(
        "No worker of the pool is left to try: all rest after failures, or each was tried.",
        "Look at the workers: `Pool` says of each why it rests. Submit again later.",
    ),
    ErrorCode.MODEL_DEPRECATED: Explanation(
        "An orchestrator does not serve this model any more. Adapters never raise this.",
        "Ask for another model.",
    ),
    ErrorCode.UNTRUSTED_ARTIFACT: Explanation(
        "An orchestrator refused a model whose digest it does not trust. Adapters never raise this.",
        "Check where the model comes from, and the digests that are trusted.",
    ),
}

REASONS: Mapping[Reason, Explanation] = {
    Reason.CONNECT: Explanation(
        "No connection: the name is not known, nobody listens, no address answers, or TLS failed.",
        "The message says which. Is the worker up, are host and port right, is it `https` where it should be, does the "
        "certificate fit (`TLS(ca_bundle=…, server_hostname=…)`)? A proxy is used only if `proxy=` says so.",
    ),
    Reason.CONNECT_TIMEOUT: Explanation(
        "The connection, with its TLS handshake, was not there within `timeouts.connect` (5 s).",
        "Usually a firewall that drops, or a machine that is down. Raise `connect` only if the network is really that slow.",
    ),
    Reason.FIRST_TOKEN_TIMEOUT: Explanation(
        "The request was sent and no content came within `timeouts.first_token` (60 s). The worker may still hold it, so "
        "the adapter did not try again.",
        "Queueing counts: where requests wait long, raise `first_token`, or send fewer at once (`limits.max_in_flight`).",
    ),
    Reason.DISCONNECTED: Explanation(
        "The connection was closed or reset by the other side.",
        "Look at the worker's log for a crash or a restart, and at what stands between (proxies cut idle streams).",
    ),
    Reason.LOADING: Explanation(
        "The worker says that it loads its model, is not ready, or sleeps.",
        "Wait: `adapter.wait_ready(timeout)`. The adapter itself tries again, for `retry.attempts` attempts.",
    ),
    Reason.UNSUPPORTED_VERSION: Explanation(
        "This version of the server can't be used safely; the message says what is wrong with it.",
        "Update the server; docs/engines says from which version on.",
    ),
    Reason.OVERLOADED: Explanation(
        "The engine refused because it is full, in a status or inside of a 200; `upstream` has its own words.",
        "Wait for `retry_after_ms`, try another worker, or send fewer at once.",
    ),
    Reason.LOCAL_LIMIT: Explanation(
        "A limit of this process: `limits.max_in_flight` streams at once, places held by streams that nobody reads, or no "
        "more descriptors or threads.",
        "`submit(…, block=True)` waits for a place. Read, collect or cancel every stream that was submitted. "
        "`worker_adapters.dump()` lists them.",
    ),
    Reason.VALIDATION: Explanation(
        "A field of the request has a value that can't be, or the engine refused it with a 400 or 422.",
        "The message names the field; `upstream` has the engine's words. `validate(request)` finds out without sending.",
    ),
    Reason.CONTEXT_TOO_LONG: Explanation(
        "Prompt and max_tokens do not fit into the model's context; the message has the numbers if the engine told them.",
        "A shorter prompt, fewer tokens, or a worker with more: `adapter.properties().context_length`.",
    ),
    Reason.UPSTREAM_AUTH: Explanation(
        "The worker answered 401 or 403: the key is missing, wrong, or may not do this. It was read anew, once.",
        "`credentials=FromEnv(…)` or `FromFile(…)`; is it the key of this worker, and a gateway's in `headers=`?",
    ),
    Reason.UPSTREAM_NOT_FOUND: Explanation(
        "The worker answered 404: no such route, or no such model.",
        "Is it the right engine, has the URL a path too many or too few, and is `model=` one that this worker serves?",
    ),
    Reason.UNSUPPORTED: Explanation(
        "The engine can't do what was asked: the dialect has no word for it, or the server answered 405 or 501.",
        "`adapter.features` says what can be asked of this engine. Leave the field out, or ask another engine.",
    ),
    Reason.REDIRECT: Explanation(
        "The worker answered with a redirect, which is never followed: credentials go to the configured origin only.",
        "Give `connect()` the URL that it points to.",
    ),
    Reason.ENGINE_ERROR: Explanation(
        "The engine said that it failed; `upstream` has its own words.",
        "They, and the worker's log, say why. Another worker may do.",
    ),
    Reason.TRUNCATED: Explanation(
        "The body ended without the engine's own sign that it is whole, however cleanly the connection was closed.",
        "Something cut it: the worker died, or a proxy in between ends long answers. Submit again.",
    ),
    Reason.EMPTY: Explanation(
        "A stream without a single event, not even the one that says it is over.",
        "Look at the worker's log; a proxy that answers 200 in its stead does this, too.",
    ),
    Reason.ABORTED: Explanation(
        "The engine ended the request by itself: somebody aborted it there, or the server shuts down.",
        "Submit again, elsewhere if the worker is going away.",
    ),
    Reason.KV_EXHAUSTED: Explanation(
        "The engine ran out of room for keys and values in mid-stream and dropped the request.",
        "Fewer requests at once, shorter ones, or a larger cache at the engine.",
    ),
    Reason.IDLE_TIMEOUT: Explanation(
        "No content for `timeouts.idle` (30 s) between two tokens, while the consumer was not the one who was late.",
        "Look at the worker: it hangs, or preempts. Raise `idle` if such pauses are normal there.",
    ),
    Reason.DEADLINE: Explanation(
        "`GenerateRequest.deadline` seconds have passed since submit.",
        "See DEADLINE_UNMET. `partial` has what had come.",
    ),
    Reason.PROTOCOL: Explanation(
        "What came is not what this engine sends: no event stream, broken JSON, a field of another type.",
        "Is it the right engine? Does a proxy rewrite answers? If the engine is new, its dialect may have to learn.",
    ),
    Reason.EVENT_TOO_LARGE: Explanation(
        "One event, or the collected text, is larger than the limit that protects this process's memory.",
        "Raise `limits.max_event_size` or `limits.max_collected` if such sizes are meant.",
    ),
    Reason.ADAPTER_CLOSED: Explanation(
        "The adapter was closed before the call, or while the stream ran.",
        "Connect another, or close later: `adapter.drain(timeout)` waits for what is in flight.",
    ),
    Reason.BUG: Explanation(
        "A fault of this library, or of a dialect or callback that was handed to it.",
        "Please report it with the traceback that the logger `worker_adapters` has.",
    ),
    Reason.NO_WORKER: Explanation(
        "No worker of the pool is left that could be tried: all rest after failures, or each was tried.",
        "See REPLICA_EXHAUSTED.",
    ),
    Reason.QUEUE_FULL: Explanation(
        "An orchestrator's queue is full. Adapters never raise this.", "Submit again after `retry_after_ms`."
    ),
    Reason.QUOTA: Explanation(
        "An orchestrator's quota for this caller is used up. Adapters never raise this.",
        "Wait, or ask for a larger one.",
    ),
    Reason.DEPRECATED: Explanation(
        "What was asked for is withdrawn at the orchestrator. Adapters never raise this.", "See MODEL_DEPRECATED."
    ),
    Reason.UNTRUSTED: Explanation(
        "An orchestrator does not trust what was asked for. Adapters never raise this.", "See UNTRUSTED_ARTIFACT."
    ),
    Reason.NOT_FOUND: Explanation(
        "An orchestrator knows nothing of that name, or not for this caller. Adapters never raise this.",
        "Check the name of the task or the model.",
    ),
    Reason.REPLAY_GONE: Explanation(
        "An orchestrator no longer keeps the events from which a client wants to go on. Adapters never raise this.",
        "Start the stream anew; keep more events or keep them longer where clients come back late.",
    ),
}
