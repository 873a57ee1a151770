"""The vLLM backend's model. A stand-in: see standin.py."""

from __future__ import annotations

import json
import threading
from functools import partial

import numpy as np
import triton_python_backend_utils as pb_utils
from standin import Asked, Said, prompt_ids, scalar, send_all

KNOBS = ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
KNOWN = {
    *KNOBS,
    *("max_tokens", "seed", "temperature", "stop", "ignore_eos", "n", "min_tokens", "stop_token_ids", "logprobs"),
    *("include_stop_str_in_output", "skip_special_tokens"),
}
OUTPUTS = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
PREFIX = "Error generating stream: "
REFUSALS = {
    "long": "The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure that "
    "`max_model_len` is no smaller than the number of text tokens.",
    "lora": "LoRA x is not supported, we currently support ['a']",
}


def failed(request: object, message: str) -> None:
    error = pb_utils.TritonError(f"{PREFIX}{message}")
    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    request.get_response_sender().send(pb_utils.InferenceResponse(error=error), flags=flags)


class Vllm:
    """One request, one thread. Sampling comes as JSON in `sampling_parameters`, or else as request parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        self.name = args["model_name"]

    def execute(self, requests: list[object]) -> None:
        for request in requests:
            threading.Thread(target=self._serve, args=(request,), daemon=True).start()

    def _serve(self, request: object) -> None:
        if scalar(request, "stream", False) and not scalar(request, "exclude_input_in_output", True):
            failed(request, "When streaming, `exclude_input_in_output` = False is not allowed.")
            return
        sampling = json.loads(scalar(request, "sampling_parameters", None) or request.parameters() or "{}")
        if not KNOWN.issuperset(sampling):
            failed(request, "'NoneType' object has no attribute 'lora_name'")
            return
        asked = Asked(
            prompt=scalar(request, "text_input", ""),
            max_tokens=sampling.get("max_tokens", 16),
            seed=sampling.get("seed", 0),
            temperature=sampling.get("temperature", 1.0),
            knobs=tuple(float(sampling.get(name, 0)) for name in KNOBS),
            stop=tuple(sampling.get("stop", ())),
            ignore_eos=sampling.get("ignore_eos", False),
        )
        wanted = [name for name in OUTPUTS if scalar(request, f"return_{name}", False)]
        top = sampling.get("logprobs") if "logprobs" in sampling else None
        respond = partial(self._response, asked, wanted, top)
        send_all(self.name, request, asked, respond, refusals=REFUSALS, prefix=PREFIX)

    def _response(self, asked: Asked, wanted: list[str], top: int | None, said: Said) -> object:
        token = said.token
        drawn = {"logprob": token.logprob, "rank": 1, "decoded_token": token.piece.decode("utf-8", "replace")}
        likely = [{token.id: drawn}]
        values = {
            "finish_reason": ([str(token.reason)], object),
            "cumulative_logprob": ([said.cumulative_logprob], np.float32),
            "logprobs": (["null" if top is None else json.dumps(likely)], object),
            "num_input_tokens": (len(prompt_ids(asked.prompt)), np.uint32),
            "num_output_tokens": ([1], np.uint32),
        }
        tensors = [pb_utils.Tensor("text_output", np.array([said.delta], dtype=object))]
        tensors += [pb_utils.Tensor(name, np.asarray(values[name][0], dtype=values[name][1])) for name in wanted]
        return pb_utils.InferenceResponse(tensors)
