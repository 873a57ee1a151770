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
    "a place in a queue first": [b'event: queue\ndata: {"position": 3}\n\n', data({"status": "loading"}), A, STOP],
    "a state in words, under a name": [b"event: status\ndata: warming up\n\n", A, STOP, b"event: done\ndata: done\n\n"],
    "pings that are only words": [b"data: ping\n\n", A, b"data: keep-alive\n\n", STOP],
    "events with names and numbers": [b"id: 0\nevent: message\n" + A, b"id: 1\nretry: 5\n" + STOP, DONE],
    "LiteLLM's, whose usage has an empty choice": [
        data({"choices": [{"index": 0, "text": "a"}]}),
        data({"choices": [{"finish_reason": "stop", "index": 0}]}),
        data({"choices": [{"index": 0}], "usage": used(3, 1)}),
        DONE,
    ],
    "MAX's, with lists of nothing": [
        event("a", logprobs={"text_offset": None, "token_logprobs": [], "tokens": None, "top_logprobs": []}),
        STOP,
        DONE,
    ],
    "logprobs as of a chat": [
        event("a", logprobs={"content": [{"token": "a", "logprob": -0.1, "top_logprobs": []}]}),
        STOP,
    ],
    "llamafile's and Ollama's, with timings": [
        A,
        data({"choices": [{"text": "", "finish_reason": "stop"}], "timings": {"n": 1}}),
    ],
    "no index": [data({"choices": [{"text": "a"}]}), data({"choices": [{"finish_reason": "stop"}]})],
    "an index of null": [data({"choices": [{"text": "a", "index": None}]}), STOP],
    "the reason twice": [A, STOP, STOP, DONE],
    "another object": [data({"object": "chat.completion.chunk", "choices": [{"text": "a"}]}), STOP],
    "what follows [DONE]": [A, STOP, DONE, A, b"data: <html>\n\n"],
    "Azure's results of filters": [
        A,
        event("", None, content_filter_results={"hate": {"filtered": False}}),
        STOP,
        DONE,
    ],
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
    "FastChat's, beside a text that is no model's": (
        [A, data({"text": "**NETWORK ERROR DUE TO HIGH TRAFFIC.**", "error_code": 50001}), DONE],
        "ENGINE_ERROR",
    ),
    "FastChat's, of a prompt": ([data({"text": "too much", "error_code": 40303}), DONE], "CONTEXT_TOO_LONG"),
    "a name that says error": ([A, b"event: server_error\ndata: {}\n\n"], "ENGINE_ERROR"),
    "an overload, in words": ([b"data: Server is busy, try again later\n\n"], "OVERLOADED"),
    "words that nobody knows": ([A, b"data: the model has panicked\n\n"], "PROTOCOL"),
    "a list of errors": ([data({"success": False, "errors": [{"code": 7000, "message": "overloaded"}]})], "OVERLOADED"),
    "Anthropic's": ([data({"type": "error", "error": {"type": "overloaded_error", "message": "x"}})], "OVERLOADED"),
    "a number of an error": ([A, data({"error": 500})], "ENGINE_ERROR"),
    "progress, and nothing else": ([data({"progress": 1}), data({"progress": 2}), DONE], "EMPTY"),
    "progress, and the end of it": ([data({"progress": 1})], "PROTOCOL"),
    "another protocol": ([data({"model": "m", "response": "a", "done": False})], "PROTOCOL"),
    "OpenAI's newer one": ([data({"type": "response.created", "response": {}})], "PROTOCOL"),
    "a reason of a filter, and an abort": ([A, event("", "abort", content_filter_results={})], "ABORTED"),
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
