"""TensorRT-LLM's models: tensorrt_llm_bls, and the three steps of the ensemble. Stand-ins: see standin.py."""

from __future__ import annotations

import json
import threading

import numpy as np
import triton_python_backend_utils as pb_utils
from standin import END, FINAL, VOCABULARY, Asked, Said, array, log, prompt_ids, scalar, send_all, words

KNOBS = ("top_k", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
REFUSALS = {
    "long": "Encountered an error when fetching new request: Prompt length (9000) exceeds maximum input length (8192).",
    "queue": "Executor failed process requestId 3 due to the following error: Maximum queue size of 4 has been reached, "
    "please try again later",
}


def tensor(name: str, value: object, kind: type) -> object:
    return pb_utils.Tensor(name, np.array(value, dtype=kind))


def asked_of(request: object) -> Asked:
    greedy = scalar(request, "top_k", 0) == 1
    return Asked(
        prompt=scalar(request, "text_input", ""),
        max_tokens=scalar(request, "max_tokens", 0),
        seed=scalar(request, "seed", 0),
        temperature=0.0 if greedy else scalar(request, "temperature", 1.0),
        knobs=tuple(float(scalar(request, name, 0)) for name in KNOBS),
        stop=words(request, "stop_words"),
    )


class Bls:
    """`tensorrt_llm_bls`. Parameters: accumulate_tokens, and of our own blocking, with which it takes one at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        flags = {name for name, found in config["parameters"].items() if found["string_value"] == "true"}
        self.name = args["model_name"]
        self.accumulates, self.blocking = "accumulate_tokens" in flags, "blocking" in flags

    def execute(self, requests: list[object]) -> None:
        for request in requests:
            serve = threading.Thread(target=self._serve, args=(request,), daemon=True)
            serve.start()
            if self.blocking:
                serve.join()

    def _serve(self, request: object) -> None:
        wanted = {
            name
            for name in ("log_probs", "num_input_tokens", "num_output_tokens")
            if scalar(request, f"return_{name}", False)
        }
        asked, logprobs = asked_of(request), list[float]()

        def respond(said: Said) -> object:
            logprobs.append(said.token.logprob)
            found = [tensor("text_output", [[said.whole if self.accumulates else said.delta]], object)]
            if "log_probs" in wanted:
                shown = logprobs if self.accumulates else logprobs[-1:]
                found.append(tensor("cum_log_probs", [[said.cumulative_logprob]], np.float32))
                found.append(tensor("output_log_probs", [[shown]], np.float32))
            if "num_input_tokens" in wanted:
                found.append(tensor("num_input_tokens", [[len(prompt_ids(asked.prompt))]], np.int32))
            if "num_output_tokens" in wanted:
                found.append(tensor("num_output_tokens", [[1]], np.int32))
            found += [tensor(name, [[0]], np.int32) for name in ("batch_index", "sequence_index")]
            return pb_utils.InferenceResponse(found)

        send_all(self.name, request, asked, respond, refusals=REFUSALS)


class Preprocessing:
    """`preprocessing`: text to ids. Refuses a prompt with `!preprocess` in it."""

    def execute(self, requests: list[object]) -> list[object]:
        answers = []
        for request in requests:
            prompt = scalar(request, "QUERY", "")
            if "!preprocess" in prompt.split():
                error = pb_utils.TritonError("tiny preprocessing told to fail")
                answers.append(pb_utils.InferenceResponse(error=error))
                continue
            ids = prompt_ids(prompt)
            stop = "\0".join(words(request, "STOP_WORDS_DICT"))
            found = [
                tensor("INPUT_ID", [ids], np.int32),
                tensor("REQUEST_INPUT_LEN", [[len(ids)]], np.int32),
                tensor("REQUEST_OUTPUT_LEN", [[scalar(request, "REQUEST_OUTPUT_LEN", 0)]], np.int32),
                tensor("STOP_WORDS_IDS", [list(stop.encode())], np.int32),
                tensor("BAD_WORDS_IDS", [[]], np.int32),
                tensor("OUT_END_ID", [[scalar(request, "END_ID", END)]], np.int32),
                tensor("OUT_PAD_ID", [[scalar(request, "PAD_ID", END)]], np.int32),
            ]
            answers.append(pb_utils.InferenceResponse(found))
        return answers


class TensorrtLlm:
    """`tensorrt_llm`: ids to ids, a response per token. `stop` with the id of a request ends that one."""

    def initialize(self, args: dict[str, str]) -> None:
        self.name = args["model_name"]
        self.stopped: dict[str, threading.Event] = {}

    def execute(self, requests: list[object]) -> None:
        for request in requests:
            if scalar(request, "stop", False):
                self._stop(request)
                continue
            over = self.stopped.setdefault(request.request_id(), threading.Event())
            threading.Thread(target=self._serve, args=(request, over), daemon=True).start()

    def _stop(self, request: object) -> None:
        name, sender = request.request_id(), request.get_response_sender()
        log(f"{self.name} is told to stop {name!r}")
        if not name:
            error = pb_utils.TritonError("Trying to stop a request but request ID is not provided")
            sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
            return
        if name in self.stopped:
            self.stopped[name].set()
        sender.send(pb_utils.InferenceResponse([]), flags=FINAL)

    def _serve(self, request: object, over: threading.Event) -> None:
        greedy = scalar(request, "runtime_top_k", 0) == 1
        stop = array(request, "stop_words_list")
        asked = Asked(
            prompt=bytes(array(request, "input_ids").tolist()).decode(),
            max_tokens=scalar(request, "request_output_len", 0),
            seed=scalar(request, "seed", 0),
            temperature=0.0 if greedy else scalar(request, "temperature", 1.0),
            knobs=tuple(float(scalar(request, name.replace("top", "runtime_top"), 0)) for name in KNOBS),
            stop=() if stop is None else tuple(filter(None, bytes(stop.tolist()).decode().split("\0"))),
        )

        def respond(said: Said) -> object:
            found = [
                tensor("output_ids", [[[said.token.id]]], np.int32),
                tensor("sequence_length", [[1]], np.int32),
                tensor("cum_log_probs", [[said.cumulative_logprob]], np.float32),
                tensor("output_log_probs", [[[said.token.logprob]]], np.float32),
                tensor("num_output_tokens", [[1]], np.int32),
            ]
            found += [tensor(name, [[0]], np.int32) for name in ("batch_index", "sequence_index")]
            return pb_utils.InferenceResponse(found)

        send_all(self.name, request, asked, respond, over=over.is_set, refusals=REFUSALS)
        self.stopped.pop(request.request_id(), None)


class Postprocessing:
    """`postprocessing`: ids to text, each response by itself, so that a character over two of them is lost, as there."""

    def execute(self, requests: list[object]) -> list[object]:
        answers = []
        for request in requests:
            pieces = b"".join(VOCABULARY[token] for token in array(request, "TOKENS_BATCH"))
            text = pieces.decode("utf-8", "replace").encode()
            answers.append(pb_utils.InferenceResponse([tensor("OUTPUT", [[text]], object)]))
        return answers
