"""The conformance suite for servers of OpenAI's completions, on the bytes of real ones."""

from __future__ import annotations

from pathlib import Path

from worker_adapters.engines.openai_completions import DIALECT
from worker_adapters.testing import EngineSuite, Transcripts

FOLDER = Path(__file__).parent / "transcripts" / "openai-completions"


class TestMlx(EngineSuite):
    """mlx-lm's server, recorded: HTTP/1.0, no length, comments while it reads the prompt."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "mlx-lm-0.32.2")


class TestDynamo(EngineSuite):
    """NVIDIA Dynamo's frontend, recorded with its mocker: no finish_reason until the last, errors that `[DONE]` follows."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "dynamo-1.6.1")


class TestTransformers(EngineSuite):
    """`transformers serve`, recorded: no `[DONE]`, no finish_reason until the last, which has the usage; errors in a 200."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "transformers-5.24.0")


class TestMax(EngineSuite):
    """Modular's MAX, recorded on the CPU: logprobs of empty lists, a stop string that it leaves in the text."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "max-26.6.0")


class TestLiteLLM(EngineSuite):
    """LiteLLM's proxy, recorded before llama-server: no keys for what has no value, a choice of nothing beside the usage."""

    dialect = DIALECT
    transcripts = Transcripts(FOLDER / "litellm-1.108.7")
