"""Hugging Face's own client reads the hand-made responses as we do: same text, same end."""

from __future__ import annotations

import pytest
from text_generation import Client

from worker_adapters import GenerateRequest, connect
from worker_adapters.testing import Transcripts
from worker_adapters.testing.server import ReplayServer

from .test_suite_tgi import FOLDER


@pytest.mark.filterwarnings("ignore:The `dict` method")  # of pydantic, which the client calls
@pytest.mark.parametrize("version", ["1.4.0", "3.3.7"])
def test_the_clients_agree(version):
    with ReplayServer(Transcripts(FOLDER / version)) as server, connect("tgi", server.url) as adapter:
        ours = adapter.generate(GenerateRequest(prompt="p", max_tokens=3, seed=1))
        theirs = list(Client(server.url).generate_stream("p"))
    said = "".join(event.token.text for event in theirs if not event.token.special)
    assert said == ours.text.rstrip("\ufffd")  # theirs leaves out a character that never became whole
    assert theirs[-1].details.finish_reason.value == ours.end.finish_reason_raw
    assert theirs[-1].details.generated_tokens == ours.end.tokens_out
