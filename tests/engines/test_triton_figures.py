"""What Triton's control routes and metrics come to in properties: its own families, TensorRT-LLM's, vLLM's."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_adapters.api import Properties
from worker_adapters.dialect import ProbeTarget, Reply
from worker_adapters.engines import triton
from worker_adapters.engines.triton.figures import measured
from worker_adapters.testing import Transcripts

FOLDER = Path(__file__).parent / "transcripts" / "triton"
REFUSED = Reply(status=403, headers={}, body=b'{"error":"This API is restricted"}')


def reply_of(folder, name):
    recorded = Transcripts(FOLDER / folder).recorded(name)
    return Reply(status=recorded.status, headers=recorded.headers, body=recorded.body)


def properties(replies, model):
    """The facts of a conversation with those replies by target; what has none is refused."""
    conversation = triton.DIALECT.properties(ProbeTarget(model=model))
    try:
        wire = next(conversation)
        while True:
            wire = conversation.send(replies.get(wire.target, REFUSED))
    except StopIteration as done:
        return done.value.properties


def page(*lines):
    return measured(Properties(engine="triton", observed_at=0.0), "\n".join(lines).encode(), "m")


def test_recorded_statistics_and_index():
    names = {"/v2": "server", "/v2/models/vllm_model/stats": "stats", "/v2/repository/index": "index"}
    replies = {target: reply_of("2.51.0-vllm", name) for target, name in names.items()}
    known = properties(replies, "vllm_model")
    assert known.engine_version == "2.51.0"
    assert (known.details["model_state"], known.details["model_version"]) == ("READY", "1")
    assert known.details["inference_count"] == known.details["success_count"] > 0
    assert known.details["fail_count"] == 0, "errors of decoupled models count as successes"
    assert 0 < known.details["compute_infer_ms"] < 1000
    assert known.queue_depth is None, "without metrics nothing tells"


def test_a_model_that_failed_to_load_says_why():
    index = b'[{"name":"m","version":"1","state":"UNAVAILABLE","reason":"Internal: no such file"},{"name":"n"}]'
    server = reply_of("2.51.0-vllm", "server")
    known = properties({"/v2": server, "/v2/repository/index": Reply(status=200, headers={}, body=index)}, "m")
    assert (known.details["model_state"], known.details["model_reason"]) == ("UNAVAILABLE", "Internal: no such file")


def test_health_says_what_the_index_knows_of_a_model_that_is_not_ready():
    def detail_with(index):
        conversation = triton.DIALECT.health(ProbeTarget(model="slowload"))
        assert next(conversation).target == "/v2/models/slowload/ready"
        asked = conversation.send(reply_of("2.51.0", "loading_model_ready"))
        assert (asked.method, asked.target) == ("POST", "/v2/repository/index")
        with pytest.raises(StopIteration) as done:
            conversation.send(index)
        assert not done.value.value.ready
        return done.value.value.detail

    assert "(LOADING)" in detail_with(reply_of("2.51.0", "loading_repository_index"))
    assert "(" not in detail_with(REFUSED)


def test_without_a_model_all_states_are_told():
    replies = {"/v2": reply_of("2.51.0-vllm", "server"), "/v2/repository/index": reply_of("2.51.0-vllm", "index")}
    assert properties(replies, None).details["state of ensemble"] == "READY"


def test_what_a_restricted_server_does_not_show_is_left_out():
    known = properties({"/v2": reply_of("2.51.0-vllm", "server")}, "vllm_model")
    assert (known.engine_version, known.details) == ("2.51.0", {})


def test_recorded_metrics_are_of_the_model():
    known = measured(
        Properties(engine="triton", observed_at=0.0), reply_of("2.51.0", "queue_full_metrics_during").body, "queue1"
    )
    assert known.queue_depth == known.details["requests_pending"] == 1
    assert "trtllm_requests_max" not in known.details


def test_tensorrt_llm_s_families():
    known = page(
        'nv_trt_llm_request_metrics{model="engine",request_type="max",version="1"} 64',
        'nv_trt_llm_request_metrics{model="engine",request_type="scheduled",version="1"} 60',
        'nv_trt_llm_request_metrics{model="engine",request_type="waiting",version="1"} 3',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="engine",version="1"} 200',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="engine",version="1"} 50',
        'nv_trt_llm_inflight_batcher_metrics{inflight_batcher_specific_metric="paused_requests",model="engine"} 2',
        'nv_trt_llm_runtime_memory_metrics{memory_type="gpu",model="engine",version="1"} 1024',
        'nv_inference_pending_request_count{model="m",version="1"} 1',
        'nv_inference_pending_request_count{model="other",version="1"} 9',
        'nv_gpu_utilization{gpu_uuid="a"} 0.5',
    )
    assert (known.slots_total, known.slots_free, known.queue_depth, known.kv_usage) == (64, 4, 4, 0.25)
    assert known.details["trtllm_batcher_paused_requests"] == 2
    assert known.details["trtllm_memory_gpu"] == 1024
    assert known.details["trtllm_kv_blocks_used"] == 50
    assert known.details["gpu_utilization"] == 0.5


def test_vllm_s_families():
    known = page(
        'vllm:prompt_tokens_total{model="m",version="1"} 50',
        'vllm:generation_tokens_total{model="m",version="1"} 7',
        'vllm:num_requests_waiting{model="m"} 2',
        'vllm:num_requests_running{model="m"} 3',
        'vllm:kv_cache_usage_perc{model="m"} 0.75',
    )
    assert (known.queue_depth, known.kv_usage, known.slots_total) == (2, 0.75, None)
    assert known.details["vllm_generation_tokens"] == 7
    assert known.details["vllm_requests_running"] == 3


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_not_known(value):
    known = page(f'nv_trt_llm_request_metrics{{request_type="max"}} {value}', f"vllm:num_requests_waiting {value}")
    assert (known.slots_total, known.queue_depth, known.details) == (None, None, {})


def test_a_page_without_any_of_them():
    known = page("up 1", "# HELP x y")
    assert (known.queue_depth, known.kv_usage, known.details) == (None, None, {})
