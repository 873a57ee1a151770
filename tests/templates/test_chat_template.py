"""`ChatTemplate`: held to what transformers renders, read from a tokenizer's files, and stopped where it goes too far."""

from __future__ import annotations

import hashlib
import json
import pickle
import signal

import pytest

from worker_adapters import ChatTemplate, Features, InvalidRequestError, TemplateError, TemplateLimits
from worker_adapters.api import Reason

from . import attacks
from .record import NOW, PATH
from .styles import CONVERSATIONS, SPECIAL, STYLES

RECORD = json.loads(PATH.read_text(encoding="utf-8"))
SMALL = TemplateLimits(steps=10_000, characters=100_000)
HELLO = [{"role": "user", "content": "hello"}]


def ours(style: str, conversation: str) -> str | None:
    """The prompt; None where it is refused, as in the record."""
    try:
        template = ChatTemplate(STYLES[style], special_tokens=SPECIAL, clock=lambda: NOW)
        return template.render(**CONVERSATIONS[conversation])
    except TemplateError:
        return None


@pytest.mark.req("OC-ADAPT-5010")
@pytest.mark.parametrize("style", STYLES)
def test_templates_render_as_transformers_renders_them(style):
    assert {name: ours(style, name) for name in CONVERSATIONS} == RECORD["prompts"][style]


def test_the_record_is_of_many_styles_and_most_of_it_are_prompts():
    prompts = [prompt for style in RECORD["prompts"].values() for prompt in style.values()]
    assert len(STYLES) >= 30
    assert {*RECORD["prompts"]} == {*STYLES}
    assert sum(prompt is not None for prompt in prompts) > 0.8 * len(prompts)


@pytest.mark.matrix
def test_the_record_is_what_the_transformers_here_renders():
    pytest.importorskip("transformers", reason="make templates installs it")
    from .record import rendered  # noqa: PLC0415  -- imports transformers

    assert rendered() == RECORD["prompts"]


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


SHORT = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


def test_a_tokenizer_config_has_template_and_special_tokens(tmp_path):
    bos = {"content": "<s>", "lstrip": False, "__type": "AddedToken"}
    config = write(tmp_path, "tokenizer_config.json", {"chat_template": SHORT, "bos_token": bos, "eos_token": "</s>"})
    for path in (config, str(config), tmp_path):
        template = ChatTemplate.from_file(path)
        assert template.render(HELLO) == "<s>hello</s>"
        assert template.digest == hashlib.sha256(SHORT.encode()).hexdigest()
    assert ChatTemplate.from_file(config, special_tokens={"eos_token": "!"}).render(HELLO) == "<s>hello!"


def test_a_jinja_file_counts_before_the_config_beside_it_which_has_the_tokens(tmp_path):
    write(tmp_path, "tokenizer_config.json", {"chat_template": "other", "bos_token": "<s>", "eos_token": "</s>"})
    jinja = write(tmp_path, "chat_template.jinja", SHORT)
    assert ChatTemplate.from_file(jinja) == ChatTemplate.from_file(tmp_path)
    assert ChatTemplate.from_file(tmp_path).render(HELLO) == "<s>hello</s>"


def test_named_templates_are_chosen_by_their_names(tmp_path):
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    config = write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert [ChatTemplate.from_file(config, name=name).text for name in (None, "default", "tool_use")] == ["d", "d", "t"]
    with pytest.raises(TemplateError, match="no template named 'rag'; there are: default, tool_use"):
        ChatTemplate.from_file(config, name="rag")
    jinja = write(tmp_path, "chat_template.jinja", "j")
    write(tmp_path, "additional_chat_templates/rag.jinja", "r")
    assert [ChatTemplate.from_file(jinja, name=name).text for name in (None, "rag")] == ["j", "r"]
    with pytest.raises(TemplateError, match="no template named"):
        ChatTemplate.from_file(jinja, name="../tokenizer_config")


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"chat_template": 1}', '{"chat_template": []}'])
def test_a_config_without_a_template_is_refused(tmp_path, content):
    with pytest.raises(TemplateError):
        ChatTemplate.from_file(write(tmp_path, "tokenizer_config.json", content))


def test_a_template_is_a_value():
    template = ChatTemplate(SHORT, special_tokens=SPECIAL)
    assert template == pickle.loads(pickle.dumps(template)) != ChatTemplate("x")
    assert pickle.loads(pickle.dumps(template)).render(HELLO) == "<s>hello</s>"
    assert "hello" not in repr(template)


def test_the_date_is_the_clock_s():
    assert ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", clock=lambda: NOW).render([]) == "2026-02-03"


# --- BOS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adds", "known", "prompt"),
    [
        (True, None, "hello</s>"),
        (True, True, "hello</s>"),
        (True, False, "<s>hello</s>"),
        (False, None, "<s>hello</s>"),
    ],
)
def test_bos_is_left_out_for_servers_that_add_it(adds, known, prompt):
    template = ChatTemplate(SHORT, special_tokens=SPECIAL, adds_bos=known)
    assert template.render(HELLO, features=Features(adds_bos=adds)) == prompt


def test_only_one_bos_is_left_out_and_only_at_the_start():
    template = ChatTemplate("{{ messages[0].content }}", special_tokens=SPECIAL)
    said = [{"role": "user", "content": "<s><s>a<s>"}]
    assert template.render(said, features=Features(adds_bos=True)) == "<s>a<s>"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.deeper }}", "UndefinedError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError|UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'other' %}", "TypeError|no loader"),
        ("{{ lipsum() }}", "lipsum"),
    ],
)
def test_what_a_template_does_wrong_is_a_typed_error(text, says):
    with pytest.raises(TemplateError, match=says) as caught:
        ChatTemplate(text).render(HELLO)
    assert isinstance(caught.value, InvalidRequestError | ValueError)
    assert (caught.value.code, caught.value.reason) == ("INVALID_PARAMS", Reason.VALIDATION)
    assert pickle.loads(pickle.dumps(caught.value)).error == caught.value.error


@pytest.mark.parametrize("text", ["{% for %}", "{{ x", "{% unknown %}", "{{ x | random }}", 7])
def test_what_is_no_template_is_refused_when_it_is_read(text):
    with pytest.raises(TemplateError):
        ChatTemplate(text)


DOUBLED = "{%% set ns = namespace(a=%s) %%}{%% for i in range(60) %%}{%% set ns.a = %s %%}{%% endfor %%}"
BOMBS = {
    # what does not end
    "loops in loops": "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
    "a loop over what is mapped": "{% for a in range(90000) | map('string') %}{% endfor %}",
    "a loop that calls itself": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "a loop that calls itself on a range": "{% for a in range(200) recursive %}{{ loop(range(200)) if not loop.depth0 }}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a block that calls itself": "{% block b %}{{ self.b() }}{% endblock %}",
    "filters in filters": "{{ range(90000) | map('string') | map('string') | list }}",
    "slices": "{{ 'a' | slice(1000000000) | list }}",
    "searches": "{% set s = 'a' * 90000 %}{% for a in range(900) %}{% if 'b' in s %}{% endif %}{% endfor %}",
    "comparisons": "{% set s = range(9000) | list %}{% for a in range(900) %}{% if s == s[:] %}{% endif %}{% endfor %}",
    "a test for each": "{% set s = range(9000) | list %}{{ range(900) | select('in', s) | list }}",
    "sums": "{% for a in range(900) %}{% set s = range(9000) | sum %}{% endfor %}",
    # what allocates: operators
    "*": "{{ 'a' * 1000000000 }}",
    "* of a list": "{{ [1] * 1000000000 }}",
    "* of integers": "{% set ns = namespace(a=3) %}{% for i in range(60) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
    "**": "{{ 10 ** (10 ** 8) }}",
    "%": "{{ '%1000000000d' % 1 }}",
    "% with a width": "{{ '%*d' % (1000000000, 1) }}",
    "% of a mapping": "{% set a = 'a' * 1000 %}{% set f = '%(a)s' * 1000 %}{{ f % {'a': a} }}",
    "~": DOUBLED % ("'a'", "ns.a ~ ns.a"),
    "+": DOUBLED % ("'a'", "ns.a + ns.a"),
    "+ of lists": DOUBLED % ("[1]", "ns.a + ns.a"),
    "lists in lists": DOUBLED % ("[1]", "[ns.a, ns.a]") + "{{ ns.a }}",
    "tuples in tuples": DOUBLED % ("(1,)", "(ns.a, ns.a)") + "{{ ns.a == ns.a }}",
    "dictionaries in dictionaries": DOUBLED % ("{}", "{'a': ns.a, 'b': ns.a}"),
    "dict() in dict()": DOUBLED % ("1", "dict(a=ns.a, b=ns.a)"),
    # filters and methods that give more than they take
    "center": "{{ 'a' | center(1000000000) }}",
    "indent": "{{ 'a' | indent(1000000000, true) }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "replace": "{{ ('a' * 1000) | replace('a', 'b' * 1000) }}",
    "join": "{{ (['a'] * 1000) | join('b' * 1000) }}",
    "join of what is mapped": "{{ range(9000) | map('string') | join('b' * 1000) }}",
    "join by keyword": "{% if range(900) | map('string') | join(d='b' * 1000) %}{% endif %}",
    "batch by keyword": "{{ [1] | batch(linecount=1000000000) | list }}",
    "center by keyword": "{% if 'a' | center(width=1000000000) %}{% endif %}",
    "replace by keyword": "{% if ('a' * 1000) | replace(old='a', new='b' * 1000) %}{% endif %}",
    "join of a range": "{% if range(1000) | join('b' * 1000) %}{% endif %}",
    "join of keys": "{% if dict(range(1000) | batch(2)).keys() | join('b' * 1000) %}{% endif %}",
    "batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "tojson": "{{ [[[1]]] | tojson(indent=1000000000) }}",
    "tojson with separators": "{% if range(100) | list | tojson(separators=['b' * 10000, ':']) %}{% endif %}",
    "urlize": "{% if ('http://a.com ' * 1000) | urlize(rel='b' * 1000) %}{% endif %}",
    "lists that are thrown away": "{% for a in range(900) %}{% set s = range(9000) | list %}{% endfor %}",
    "wordwrap": "{{ ('a ' * 1000) | wordwrap(1, true, 'b' * 1000) }}",
    "round": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "sum": "{{ ([[1] * 1000] * 90) | sum(start=[]) }}",
    ".ljust()": "{{ 'a'.ljust(1000000000) }}",
    ".zfill()": "{{ '1'.zfill(1000000000) }}",
    ".expandtabs()": "{{ '\t'.expandtabs(1000000000) }}",
    ".replace()": "{{ ('a' * 1000).replace('', 'b' * 1000) }}",
    ".join()": "{{ ('b' * 1000).join(['a'] * 1000) }}",
    ".join() of what is mapped": "{{ ('b' * 1000).join(range(9000) | map('string')) }}",
    ".format()": "{{ '{:1000000000d}'.format(1) }}",
    ".format() with a width": "{{ '{:{}d}'.format(1, 1000000000) }}",
    ".format() of the same": "{{ ('{0}' * 1000).format('a' * 1000) }}",
    ".format_map()": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    ".translate()": "{{ ('a' * 1000).translate({97: 'b' * 1000}) }}",
    ".to_bytes()": "{{ (1).to_bytes(1000000000, 'big') }}",
    ".encode().ljust()": "{{ 'a'.encode().ljust(1000000000) }}",
    "strftime_now": "{{ strftime_now('%Y' * 1000) }}",
    # the output
    "put out": "{% for a in range(9000) %}{{ 'a' * 100 }}{% endfor %}",
    "text put out": "{% for a in range(9000) %}" + "a" * 100 + "{% endfor %}",
    "text put out in a macro": "{% macro f() %}{% for a in range(9000) %}"
    + "a" * 100
    + "{% endfor %}{% endmacro %}{% set x = f() %}",
    "set to what is put out": "{% set x %}{% for a in range(9000) %}{{ 'a' * 100 }}{% endfor %}{% endset %}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_goes_too_far_is_stopped(bomb):
    template = ChatTemplate(BOMBS[bomb], limits=SMALL, clock=lambda: NOW)
    with pytest.raises(TemplateError, match=r"more than|without end|calls|joins|no numbers"):
        template.render(HELLO)


@pytest.fixture
def stopwatch():
    """A render that takes ten seconds of processor is ended: load does not count."""

    def late(_number, _frame):
        raise TimeoutError("it was not stopped")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, 10)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("kind", [*attacks.OPERATIONS, "whole templates"])
def test_whatever_a_template_does_again_and_again_is_counted(kind, stopwatch):
    """It is the count of work that stops it, before a million turns do, and the count is the same each time."""
    operations = attacks.OPERATIONS.get(kind, {})
    texts = [attacks.SHELL % (value, operation) for operation, value in operations.items()] or [*attacks.WHOLE.values()]
    for text in texts:
        template = ChatTemplate(text, limits=TemplateLimits(characters=100_000), clock=lambda: NOW)
        with pytest.raises(TemplateError, match="more than 800000 units of work"):
            template.render(HELLO)


def test_what_a_template_uses_up_is_the_same_each_time():
    turns = [0, 0]
    for n in (0, 1):

        def now(n=n):
            turns[n] += 1
            return NOW

        text = "{% for a in range(9999) %}{% for b in range(99) %}{{ strftime_now('%Y')[:0] }}{% endfor %}{% endfor %}"
        with pytest.raises(TemplateError, match="units of work"):
            ChatTemplate(text, limits=TemplateLimits(characters=100_000), clock=now).render(HELLO)
    assert turns[0] == turns[1] > 100


@pytest.mark.parametrize("style", ["filters", "string methods", "tools as json"])
def test_the_largest_conversations_are_rendered(style, stopwatch):
    template = ChatTemplate(STYLES[style], special_tokens=SPECIAL, clock=lambda: NOW)
    long = [{"role": "user", "content": "word " * 100}, {"role": "assistant", "content": "answer " * 70}] * 1000
    assert len(template.render(long)) > 1_000_000
    document = [{"role": "user", "content": "lorem ipsum dolor\n" * (2**20 // 18)}]
    assert len(template.render(document)) > 1_000_000


ADDRESSES = [
    "{{ messages | map('upper') }}",
    "{{ [messages | map('upper')] }}",
    "{{ {'a': messages | map('upper')} | string }}",
    "{{ 'a' ~ (messages | map('upper')) }}",
    "{{ '%s' % (messages | map('upper')) }}",
    "{{ '%s' | format(messages | map('upper')) }}",
    "{{ '{}'.format(messages | map('upper')) }}",
    "{{ '{a}'.format(a=messages | map('upper')) }}",
    "{{ ','.join([messages | map('upper')]) }}",
    "{{ [messages | map('upper')] | join }}",
    "{{ 'a'.replace('a', messages | map('upper') | string) }}",
    "{{ messages | map('upper') | trim }}",
    "{{ messages | map('upper') | pprint }}",
    "{{ messages[0].content.strip }}",
    "{{ messages[0].items }}",
    "{{ strftime_now }}",
    "{{ raise_exception }}",
    "{{ range }}",
    "{{ cycler(1) }}",
    "{{ joiner() }}",
    "{% set x %}{{ joiner() }}{% endset %}{{ x }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(joiner()) }}",
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_what_has_an_address_in_its_text_is_refused(text):
    with pytest.raises(TemplateError, match="has an address in it"):
        ChatTemplate(text, clock=lambda: NOW).render(HELLO)


def test_what_only_looks_like_an_address_is_text():
    said = [{"role": "user", "content": "<object at 0x7f0000000000>"}]
    assert ChatTemplate("{{ messages[0].content ~ namespace() }}").render(said).startswith("<object at 0x7f")


def test_ordinary_work_stays_within_the_limits():
    """A long conversation, put together bit by bit."""
    messages = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "answer " * 100}] * 500
    text = "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}{{ ns.all | tojson }}"
    assert len(ChatTemplate(text).render(messages)) > 800_000


@pytest.mark.parametrize("limits", [{"steps": 0}, {"characters": 1.5}, {"steps": True}])
def test_limits_are_positive_integers(limits):
    with pytest.raises(ValueError, match="at least 1"):
        TemplateLimits(**limits)
