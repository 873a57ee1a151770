"""Answers of servers and gateways that speak OpenAI's completions, written by hand: what ends well, and what does not."""

from __future__ import annotations

import json

__all__ = ["BAD", "DONE", "GOOD", "HEAD", "STOP", "A", "data", "event", "used"]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"
DONE = b"data: [DONE]\n\n"


def event(text=None, finish=None, *, usage=None, **choice):
    said = {"index": 0, **choice} if text is None else {"index": 0, "text": text, **choice}
    return data({"id": "c", "choices": [{**said, "finish_reason": finish}], "usage": usage})


def data(fields):
    return b"data: " + (fields if isinstance(fields, bytes) else json.dumps(fields).encode()) + b"\n\n"


def used(tokens_in, tokens_out):
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}


A, STOP = event("a"), event("", "stop")

GOOD = {
    "as OpenAI's": [A, STOP, data({"choices": [], "usage": used(3, 7)}), DONE],
    "no [DONE]": [A, STOP],
    "no space behind data": [A, STOP, b"data:[DONE]\n\n"],
    "CR LF": [one.replace(b"\n", b"\r\n") for one in (A, STOP, DONE)],
    "pings": [b": ping - 2026-11-27\n\n", A, b":\n\n", STOP, DONE],
    "[DONE] twice, behind spaces": [A, STOP, b"data: [DONE] \n\n", DONE],
    "a role first": [event(delta={"role": "assistant", "content": ""}), A, STOP, DONE],
    "no finish_reason before the last": [data({"choices": [{"text": "a", "index": 0}]}), STOP, DONE],
    "an empty finish_reason in each": [event("a", ""), STOP],
    "text and reason together": [event("a", "length"), DONE],
    "text is null at the end": [A, data({"choices": [{"text": None, "finish_reason": "stop"}]})],
    "usage is null": [event("a", usage=None), STOP, data({"choices": [], "usage": None}), DONE],
    "an event of null": [A, b"data: null\n\n", STOP],
    "an event of something else": [A, data({"object": "progress", "percent": 50}), STOP],
    "a word that nobody knows": [A, event("", "zufrieden")],
    "choices is null at the end": [A, STOP, data({"choices": None, "usage": used(1, 1)})],
    "error is null": [data({"error": None, "choices": [{"text": "a"}]}), STOP],
    "a gateway that works on it": [b": OPENROUTER PROCESSING\n\n", A, STOP, DONE],
    "BOM": [b"\xef\xbb\xbf" + A, STOP, DONE],
    "lines that end in CR": [one.replace(b"\n", b"\r") for one in (A, STOP, DONE)],
    "the last line unfinished": [A, STOP, b"data:[DONE]"],
    "pings as events": [b"event: ping\ndata: 1\n\n", data({"type": "ping"}), data({}), b"data:\n\n", A, STOP],
    "filters of the prompt first": [data({"choices": [], "model": "", "prompt_filter_results": [{}]}), A, STOP, DONE],
    "counts before the reason": [A, data({"choices": [], "usage": used(1, 1)}), STOP, DONE],
    "an empty error beside choices": [data({"error": "", "choices": [{"text": "a"}]}), STOP],
    "no reason is false": [data({"choices": [{"text": "a", "finish_reason": False}]}), STOP],
    "the reason is an object": [A, data({"choices": [{"text": "", "finish_reason": {"type": "length", "length": 1}}]})],
    "words of a chat": [event(delta={"content": "a"}), event(delta={}, finish="stop"), DONE],
    "a whole message": [data({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]})],
    "a message that says all again": [A, data({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]})],
    "error after the end": [A, STOP, data({"error": {"message": "too late"}})],
}


BAD = {
    "nothing": ([], "EMPTY"),
    "[DONE] alone, unfinished": ([A, b"data: [DONE]"], "TRUNCATED"),
    "counts, and no reason": ([A, data({"choices": [], "usage": used(1, 1)}), DONE], "TRUNCATED"),
    "the last event unfinished": ([A, STOP.rstrip(b"\n")], "TRUNCATED"),
    "a reason that is no word": ([A, data({"choices": [{"text": "", "finish_reason": 0}]})], "PROTOCOL"),
    "OpenRouter's, beside a choice": (
        [
            A,
            data(
                {
                    "error": {"code": 502, "message": "x"},
                    "choices": [{"delta": {"content": ""}, "finish_reason": "error"}],
                }
            ),
        ],
        "ENGINE_ERROR",
    ),
    "KoboldCpp's": ([data({"detail": {"msg": "Server is busy; please try again later.", "type": "x"}})], "OVERLOADED"),
    "LM Studio's": ([A, b'event: error\ndata: {"error": {"message": "Model unloaded."}}\n\n'], "ENGINE_ERROR"),
    "a limit of rates, in words": ([b"event: error\ndata: Rate limit exceeded\n\n"], "OVERLOADED"),
    "cut": ([A, A], "TRUNCATED"),
    "[DONE] alone": ([DONE], "EMPTY"),
    "[DONE] of one that was interrupted": ([A, DONE], "TRUNCATED"),
    "an error, and [DONE]": ([A, data({"error": {"message": "x", "code": 500}}), DONE], "ENGINE_ERROR"),
    "a string of an error": ([A, data({"error": "x"})], "ENGINE_ERROR"),
    "an error beside choices": ([A, data({"choices": [], "error": {"message": "x"}})], "ENGINE_ERROR"),
    "an event called error": ([A, b"event: error\ndata: gone\n\n", DONE], "ENGINE_ERROR"),
    "an error that is no JSON": ([A, b'data: {"error": "no "quotes" are escaped"}\n\n'], "ENGINE_ERROR"),
    "one of two lines": ([A, b'data: {"error": "CUDA error: out of memory\nat x"}\n\n'], "ENGINE_ERROR"),
    "a flat error": ([A, data({"object": "error", "message": "x", "code": 500})], "ENGINE_ERROR"),
    "a detail": ([data({"detail": "Too Many Requests"})], "OVERLOADED"),
    "a full queue inside a 200": ([data({"error": {"message": "The queue is full", "code": 503}}), DONE], "OVERLOADED"),
    "a refusal inside a 200": ([data({"error": {"message": "x", "code": 400}})], "VALIDATION"),
    "aborted": ([A, event("", "abort"), DONE], "ABORTED"),
    "cancelled, in capitals": ([A, event("", "CANCELLED")], "ABORTED"),
    "an error of a reason": ([A, event("", "error"), DONE], "ENGINE_ERROR"),
    "an object of Python's": ([A, b"data: <starlette.responses.JSONResponse object at 0x7f>\n\n"], "PROTOCOL"),
    "several choices": ([data({"choices": [{"text": "a"}, {"text": "b", "index": 1}]})], "PROTOCOL"),
    "text is a number": ([data({"choices": [{"text": 7}]})], "PROTOCOL"),
    "nothing of a completion": ([data({"token": {"text": "a"}})], "PROTOCOL"),
}
