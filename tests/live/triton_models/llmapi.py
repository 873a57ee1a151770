"""The model of TensorRT-LLM's LLM API backend. A stand-in: see standin.py."""

from __future__ import annotations

import threading

import numpy as np
import triton_python_backend_utils as pb_utils
from standin import FINAL, Asked, Said, log, scalar, send_all, words

KNOBS = ("top_k", "top_p", "presence_penalty", "frequency_penalty")
OUTPUTS = ("finish_reason", "stop_reason", "cumulative_logprob")  # all as text, whatever the config declares
PREFIX = "Error generating request: "
REFUSALS = {
    "long": "The sum of prompt length (9000), query length (0) and max_tokens (64) should not exceed max_num_tokens (8192)",
    "queue": "Executor failed process requestId 3 due to the following error: Maximum queue size of 4 has been reached, "
    "please try again later",
    "streaming": "Streaming is only supported in decoupled mode.",
}


class Llmapi:
    """One request, one thread; each response has all the text so far. `stop` with the id of a request ends that one."""

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
        name, error = (
            request.request_id(),
            pb_utils.TritonError("A request id must be provided for request cancellation"),
        )
        log(f"{self.name} is told to stop {name!r}")
        if name:
            if name in self.stopped:
                self.stopped[name].set()
            error = pb_utils.TritonError("Request cancelled by client", pb_utils.TritonError.CANCELLED)
        request.get_response_sender().send(pb_utils.InferenceResponse(error=error), flags=FINAL)

    def _serve(self, request: object, over: threading.Event) -> None:
        def knob(name: str, default: object) -> object:
            return scalar(request, f"sampling_param_{name}", default)

        asked = Asked(
            prompt=scalar(request, "text_input", ""),
            max_tokens=knob("max_tokens", 32),
            seed=knob("seed", 0),
            temperature=0.0 if knob("top_k", 0) == 1 else knob("temperature", 1.0),
            knobs=tuple(float(knob(name, 0)) for name in KNOBS),
            stop=words(request, "sampling_param_stop"),
        )
        echo = b"" if knob("exclude_input_from_output", False) else asked.prompt.encode()
        wanted = [name for name in OUTPUTS if scalar(request, f"return_{name}", False)]

        def respond(said: Said) -> object:
            found = next((word for word in asked.stop if word.encode() in said.whole), None)
            text = said.whole.partition(found.encode())[0] if found else said.whole
            values = {
                "finish_reason": said.token.reason,
                "stop_reason": found,
                "cumulative_logprob": said.cumulative_logprob,
            }
            tensors = [pb_utils.Tensor("text_output", np.array([echo + text], dtype=object))]
            tensors += [pb_utils.Tensor(name, np.array([str(values[name])], dtype=object)) for name in wanted]
            return pb_utils.InferenceResponse(tensors)

        send_all(self.name, request, asked, respond, over=over.is_set, refusals=REFUSALS, prefix=PREFIX)
        self.stopped.pop(request.request_id(), None)
