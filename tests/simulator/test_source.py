"""The token sources: repeatable, readable, and a tokenizer that loses nothing."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters.simulator import DEFAULT_VOCABULARY, Ask, ScriptedSource, Token, WordSource


def tokens(source, count=200, **fields):
    ask = Ask(**({"prompt": (1, 300), "seed": 7, "ignore_eos": True} | fields))
    return [token.id for token in islice(source.generate(ask), count)]


@given(st.text())
def test_any_text_survives_tokenizing(text):
    plain = DEFAULT_VOCABULARY.encode(text, parse_special=False)
    assert DEFAULT_VOCABULARY.decode(plain).decode() == text
    assert DEFAULT_VOCABULARY.decode(DEFAULT_VOCABULARY.encode(text)).decode() == text


def test_special_tokens_are_parsed_only_if_asked():
    assert DEFAULT_VOCABULARY.encode("</s>") == [2]
    assert 2 not in DEFAULT_VOCABULARY.encode("</s>", parse_special=False)


def test_the_same_ask_gives_the_same_tokens():
    assert tokens(WordSource()) == tokens(WordSource())


@pytest.mark.parametrize("change", [{"seed": 8}, {"prompt": (1, 301)}, {"temperature": 0.5}, {"knobs": (0.9,)}])
def test_another_ask_gives_other_tokens(change):
    assert tokens(WordSource(), **change) != tokens(WordSource())


def test_another_model_gives_other_tokens():
    assert tokens(WordSource(seed=2)) != tokens(WordSource())


def test_greedy_tokens_do_not_depend_on_the_seed():
    assert tokens(WordSource(), temperature=0.0, seed=1) == tokens(WordSource(), temperature=0.0, seed=2, knobs=(1.0,))


def test_a_prompt_with_its_greedy_answer_goes_on_where_the_answer_stopped():
    whole = tokens(WordSource(), temperature=0.0)
    words = [at for at, token in enumerate(whole) if token > 260]
    half = words[len(words) // 2]
    assert tokens(WordSource(), 50, prompt=(1, 300, *whole[:half]), temperature=0.0) == whole[half : half + 50]


def test_the_text_has_words_and_characters_of_several_tokens():
    said = tokens(WordSource(), 2000)
    text = DEFAULT_VOCABULARY.decode(said).decode("utf-8", "ignore")
    assert " " in text
    assert not text.isascii()
    assert any(5 <= token <= 260 for token in said)


def test_an_answer_ends_by_itself_unless_told_to_ignore_the_end():
    source = WordSource(eos_rate=1 / 20)
    assert tokens(source, 5000, ignore_eos=False)[-1] == 2
    assert 2 not in tokens(source, 5000)


def test_probabilities_come_on_demand_in_falling_order():
    token = next(WordSource().generate(Ask(prompt=(1,), seed=1, n_probs=5)))
    assert token.top[0] == (token.id, token.logprob)
    assert [pair[1] for pair in token.top] == sorted((pair[1] for pair in token.top), reverse=True)
    assert len({pair[0] for pair in token.top}) == 5


def test_a_script_may_hold_ids_text_bytes_and_tokens():
    script = [" the", b"\xf0\x9f", 300, Token(id=9, piece=b"!")]
    said = list(ScriptedSource(script).generate(Ask(prompt=(), seed=0)))
    assert [token.piece for token in said] == [b" the", b"\xf0\x9f", DEFAULT_VOCABULARY.raw(300), b"!", b""]
    assert said[0].id == DEFAULT_VOCABULARY.id_of(b" the")
    assert said[-1].id == DEFAULT_VOCABULARY.eos


def test_a_script_may_depend_on_the_prompt_or_the_whole_ask():
    by_prompt = ScriptedSource({(1,): ["a"], (2,): ["b"]})
    assert next(by_prompt.generate(Ask(prompt=(2,), seed=0))).piece == b"b"
    by_ask = ScriptedSource(lambda ask: [str(ask.seed)])
    assert next(by_ask.generate(Ask(prompt=(), seed=4))).piece == b"4"
