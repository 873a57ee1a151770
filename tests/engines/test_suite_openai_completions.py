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
