"""`worker-adapters verify-determinism`: its exit status, its report, its pack."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from worker_adapters.cli import main, progressing
from worker_adapters.simulator import Simulator
from worker_adapters.testing.server import nobody_there

pytestmark = pytest.mark.req("ADAPT-3700", socket=True)
FEW = ["--seeds", "2", "--max-tokens", "12", "--lengths", "16", "--widths", "2"]


def verify(*words):
    return main(["verify-determinism", *words])


def test_a_clean_run_of_all_conditions_is_0(capsys):
    assert verify("--engine", "mock", "--url", "mock://a", "--url", "mock://b", *FEW, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["state"], report["status"]) == ("clean", 0)
    names = ["again", "order", "beside-2", "prefix", "length-16", "cancelled", "worker-2"]
    assert [one["condition"] for one in report["conditions"]] == names
    assert all(one["state"] == "clean" and one["established"] for one in report["conditions"])
    assert report["environment"]["determinism"] == "strict"
    assert report["environment"]["workers"][1]["engine_version"] == "mock-1"


def test_a_divergence_is_1_and_is_judged_again_from_its_pack(capsys, tmp_path):
    pack = tmp_path / "pack.json"
    with Simulator("llamacpp", slots=1) as one, Simulator("llamacpp", slots=1, drift=["flip@3"]) as two:
        words = ["--engine", "llamacpp", "--url", one.url, "--url", two.url, *FEW, "--conditions", "again,workers"]
        assert verify(*words, "--pack", str(pack), "--bisect", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in report["conditions"]] == ["clean", "diverged"]
    assert report["conditions"][1]["divergences"][0]["parting"]["expected"]
    assert report["bisected"][0]["least"] == {
        "again": True, "width": 0, "neighbours": [], "max_tokens": 4, "prompt_words": 1
    }  # fmt: skip
    assert verify("check", str(pack), "--json") == 1
    again = json.loads(capsys.readouterr().out)
    assert again.pop("as_recorded")
    assert again == {name: value for name, value in report.items() if name != "bisected"}


def test_what_did_not_take_place_is_2(capsys):
    with Simulator("llamacpp", slots=1) as one:
        assert verify("--engine", "llamacpp", "--url", one.url, *FEW, "--conditions", "again,beside") == 2
    said = capsys.readouterr().out
    assert "beside 2 others" in said
    assert "not established" in said.splitlines()[-1]


def test_what_can_t_be_had_is_left_out_and_named_but_never_passed_where_it_was_asked_for(capsys):
    one = ["--engine", "mock", "--url", "mock://a", *FEW]
    assert verify(*one, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [*report["left_out"]] == ["workers", "restart"]
    assert not {"worker-2", "restart"} & {each["condition"] for each in report["conditions"]}
    assert verify(*one, "--conditions", "again,workers,restart") == 2
    said = capsys.readouterr().out
    assert "worker-2: not established for 1: there is one worker" in said
    assert "restart: not established for 1: there is no --restart-cmd" in said
    assert "left out" not in said


def test_a_prefix_that_strict_keeps_cold_is_left_out_and_named(capsys):
    with Simulator("llamacpp", slots=1) as one:
        words = ["--engine", "llamacpp", "--url", one.url, *FEW, "--widths", "1"]
        assert verify(*words) == 2  # one slot is beside nobody, and that could be had
    said = capsys.readouterr().out
    assert "left out: prefix: strict" in said
    assert "prefix: not established" not in said


def test_how_far_it_is_is_told_on_standard_error(capsys, monkeypatch):
    """In lines where there is no terminal; as a bar where there is one, and rich."""
    few = ["--engine", "mock", "--url", "mock://a", *FEW, "--conditions", "again", "--json"]
    monkeypatch.setattr(progressing, "EVERY", 0.0)
    assert verify(*few) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "clean"
    assert "4 of about 4 requests" in err
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr(progressing, "OFTEN", 0.0)
    monkeypatch.setattr(progressing, "terminal", lambda **_: console)
    assert verify(*few) == 0
    assert "again" in shown.getvalue()
    assert "requests" not in capsys.readouterr().err


def test_nobody_there_is_2(capsys, nobody):
    assert verify("--engine", "vllm", "--url", nobody, *FEW, "--attempts", "1", "--json") == 2
    report = json.loads(capsys.readouterr().out)
    assert {one["state"] for one in report["conditions"]} == {"not established"}
    assert "CONNECT" in next(iter(report["conditions"][0]["missing"]))


def test_what_stands_against_every_condition_is_said_once(capsys, nobody):
    assert verify("--engine", "vllm", "--url", nobody, *FEW, "--attempts", "1") == 2
    said = [line for line in capsys.readouterr().out.splitlines() if "not established for" in line]
    assert len(said) == 1
    assert said[0].startswith("every condition: not established for 1: POOL_UNAVAILABLE/CONNECT: ")


@pytest.fixture
def nobody():
    with nobody_there() as url:
        yield url


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "mock"], "needs --engine and --url"),
        (["--engine", "none", "--url", "http://x"], "no engine 'none'"),
        (["--engine", "mock", "--url", "mock://a", "--conditions", "luck"], "no condition 'luck'"),
        (["--engine", "mock", "--url", "mock://a", "--widths", "x"], "no list of numbers"),
        (["--engine", "mock", "--url", "mock://a", "--max-tokens", "1"], "at least 2"),
    ],
)
def test_what_is_asked_wrongly_is_2(words, says, capsys):
    assert verify(*words) == 2
    assert says in capsys.readouterr().err


def test_a_pack_that_says_something_else_than_it_shows_is_2(capsys, tmp_path):
    pack = tmp_path / "pack.json"
    assert verify("--engine", "mock", "--url", "mock://a", *FEW, "--pack", str(pack)) == 0
    told = json.loads(pack.read_text())
    told["trials"][-1]["answer"]["text"] += "!"
    told["trials"][-1]["answer"]["token_ids"][-1] += 1
    pack.write_text(json.dumps(told))
    assert verify("check", str(pack)) == 2
    assert "something else" in capsys.readouterr().err
    pack.write_text("{}")
    assert verify("check", str(pack)) != 0


def test_prompts_are_rendered_with_a_template_whose_digest_is_told(capsys, tmp_path):
    template = tmp_path / "chat_template.jinja"
    template.write_text("<u>{{ messages[0].content }}</u>")
    (tmp_path / "model.gguf").write_bytes(b"weights")
    words = ["--template", str(template), "--model-files", str(tmp_path), "--conditions", "again"]
    assert verify("--engine", "mock", "--url", "mock://a", *FEW, *words, "--json") == 0
    environment = json.loads(capsys.readouterr().out)["environment"]
    assert len(environment["template_digest"]) == 64
    assert len(environment["workers"][0]["model_digest"]) == 64
