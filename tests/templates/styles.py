"""Chat templates in the styles that models have, written for these tests, and the conversations they are rendered with."""

from __future__ import annotations

from typing import Any

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather <now> in a town & its "mood"',
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "description": "its näme"}, "days": {"type": "integer"}},
            "required": ["town"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"town": "Köln", "days": 2}}}
DOCUMENTS = [{"title": "One", "text": "First text.\n"}, {"title": "Two 文", "text": "Second."}]

USER = {"role": "user", "content": "Hello, who are you?"}
SYSTEM = {"role": "system", "content": "  You are terse.\n"}
ANSWER = {"role": "assistant", "content": "A model. 🙂 "}

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "user": {"messages": [USER]},
    "no prompt": {"messages": [USER, ANSWER], "add_generation_prompt": False},
    "system": {"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And\nthen?"}]},
    "system only": {"messages": [SYSTEM]},
    "nothing": {"messages": []},
    "empty content": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": None}, USER]},
    "no content": {"messages": [USER, {"role": "assistant"}, USER]},
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "!"}],
            }
        ]
    },
    "tools": {"messages": [SYSTEM, USER], "tools": [WEATHER, CLOCK]},
    "tool calls": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
            {"role": "tool", "name": "get_weather", "content": '{"sky": "grey & <wet>"}'},
            {"role": "tool", "name": "get_weather", "content": "dry"},
        ],
        "tools": [WEATHER],
    },
    "documents": {"messages": [USER], "documents": DOCUMENTS},
    "two users": {"messages": [USER, USER]},
    "thinking": {
        "messages": [
            USER,
            {"role": "assistant", "content": "<think>so\n</think>\n\nYes.", "reasoning_content": "so"},
            USER,
        ],
        "enable_thinking": False,
    },
    "braces": {"messages": [{"role": "user", "content": "{{ 7 * 7 }} {% raw %} <s> </s> \\n '\""}]},
}

_BLOCKS = """
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = messages[0].content | trim %}{%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = '' %}{%- set rest = messages -%}
{%- endif -%}
"""

STYLES: dict[str, str] = {
    "marked turns": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "marked turns, loose": (
        "{% for m in messages %}\n<|turn|>{{ m.role }}\n  {{ m.content }}\n<|/turn|>\n{% endfor %}\n"
        "{% if add_generation_prompt %}\n    <|turn|>assistant\n{% endif %}\n"
    ),
    "instructions": _BLOCKS
    + """
{{- bos_token -}}
{%- for m in rest -%}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('roles must alternate: user, assistant, …') -}}
    {%- endif -%}
    {%- if m.role == 'user' -%}
        {{- '[INST] ' + ('<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' if loop.first and system else '') + m.content | trim + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' ~ m.content | trim ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
""",
    "headers": """{{- bos_token }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + (m['content'] or '') | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
""",
    "model and user": """{{ bos_token }}{% for m in messages %}
{% set role = {'assistant': 'model'}.get(m.role, m.role) %}
{% if role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{{ '<start_of_turn>' + role + '\n' + (m.content | trim) + '<end_of_turn>\n' }}
{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}""",
    "plain labels": """{%- for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}

{% elif m.role == 'user' %}### Instruction:
{{ m.content }}

{% elif m.role == 'assistant' %}### Response:
{{ m.content }}{{ eos_token }}

{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:
{% endif %}""",
    "upper case labels": (
        "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ ' ' if not loop.last else '' }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    ),
    "bars": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + eos_token }}"
        "{% elif m['role'] == 'system' %}{{ '<|system|>\n' + m['content'] + eos_token }}"
        "{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\n'  + m['content'] + eos_token }}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
    ),
    "tools as json": """{%- if tools %}
{{- '<tools>\n' }}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{{ '</tools>\n' }}
{%- endif %}
{%- for m in messages %}
<{{ m.role }}>{{ m.content if m.content is string else '' }}
{%- for call in m.tool_calls or [] %}
<call>{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</call>
{%- endfor %}</{{ m.role }}>
{%- endfor %}{% if add_generation_prompt %}<assistant>{% endif %}""",
    "tools indented": """{% if tools is not none and tools | length > 0 %}
Tools:
{{ tools | tojson(indent=4) }}
{% endif %}{% for m in messages %}[{{ m.role }}] {{ m.content }}
{% endfor %}""",
    "tools in a macro": """{%- macro kind(p) -%}
{%- if p.type == 'string' -%}str{%- elif p.type == 'integer' -%}int{%- else -%}Any{%- endif -%}
{%- endmacro -%}
{%- for tool in tools or [] %}{% set f = tool.function %}
def {{ f.name }}({% for name, p in (f.parameters.properties or {}) | dictsort %}{{ name }}: {{ kind(p) }}
{%- if not loop.last %}, {% endif %}{% endfor %}):
    '''{{ f.description | default('?', true) }}'''
{%- endfor %}
{%- for m in messages %}{{ '\n' ~ m.role ~ '> ' ~ m.content }}{% endfor %}""",
    "tool messages joined": """{%- for m in messages -%}
{%- if m.role == 'tool' -%}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|user|>{% endif -%}
    <tool_response>{{ m.content }}</tool_response>
    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|end|>{% endif -%}
{%- else -%}
<|{{ m.role }}|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}<|end|>
{%- endif -%}
{%- endfor -%}{%- if add_generation_prompt %}<|assistant|>{% endif -%}""",
    "previous and next": """{%- for m in messages %}
{%- if loop.previtem is defined and loop.previtem.role == m.role %}(again) {% endif -%}
{{ m.role }}{{ ',' if loop.nextitem is defined else '.' }}
{%- endfor %} {{ messages | length }}""",
    "last query": """{%- set ns = namespace(found=false, last=messages|length - 1) %}
{%- for m in messages[::-1] %}{% set i = (messages|length - 1) - loop.index0 %}
{%- if not ns.found and m.role == 'user' %}{% set ns.found = true %}{% set ns.last = i %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- set content = m.content if m.content is string else '' %}
{%- set reasoning = '' %}
{%- if m.reasoning_content is defined and m.reasoning_content is not none %}{% set reasoning = m.reasoning_content %}
{%- elif '</think>' in content %}{% set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- endif %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
<{{ m.role }}>{% if loop.index0 > ns.last and reasoning %}<think>{{ reasoning.strip('\n') }}</think>{% endif %}{{ content }}
{%- endfor %}
{%- if add_generation_prompt %}<assistant>{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}""",
    "parts": """{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}
{% for part in m.content %}{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}
{% endfor %}{% endif %}
{% endfor %}""",
    "parts selected": """{%- for m in messages %}{{ m.role }}=
{%- if m.content is iterable and m.content is not string and m.content is not mapping %}
{{- m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') }}
{%- else %}{{ m.content | default('', true) }}{% endif %};{% endfor %}""",
    "documents": """{% if documents %}{% for document in documents %}
Document: {{ loop.index0 }}
title: {{ document['title'] }}
{{ document['text'] | trim }}
{% if not loop.last %}

{% endif %}{% endfor %}{% endif %}
{% for m in messages %}{{ m.content }}{% endfor %}""",
    "dated": """Today is {{ strftime_now('%d %b %Y') }}{% if date_string is not defined %}, {{ strftime_now("%A %H:%M") }}{% endif %}.
{% for m in messages %}{{ m.content }}{% endfor %}""",
    "generation marks": """{% for m in messages %}{% if m.role == 'assistant' %}<a>{% generation %}{{ m.content }}{{ eos_token }}
{% endgeneration %}</a>{% else %}<u>{{ m.content }}</u>
{% endif %}{% endfor %}""",
    "generation with a scope": """{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ m.role }}{{ x }}{% endgeneration %}{{ x }}
{% endfor %}""",
    "loop controls": """{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}
{% if loop.index > 3 %}{% break %}{% endif %}{{ m.content }}|{% endfor %}""",
    "strict roles": """{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}
{{ raise_exception('Unknown role: ' + m.role) }}{% endif %}{{ m.role[0] }}{% endfor %}""",
    "whitespace": """
  {%- for m in messages +%}
      {{ m.role -}}
    :
  {#- a comment -#}
      {{- m.content }}

  {% endfor %}

end
""",
    "filters": """{% for m in messages %}{{ m.role | capitalize | replace('S', '5') }}/{{ (m.content | string) | length }}/
{{- m.content | string | indent(2) | title | reverse }}/{{ m.items() | list | first }}
{% endfor %}{{ messages | map(attribute='role') | unique | sort | join(', ') }}""",
    "arithmetic": """{{ 2 ** 10 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 'ab' * 3 }} {{ [1, 2] + [3] }} {{ (1, 'é') }} {{ 1 / 4 }}
{{ 'x=%s y=%05.1f' % ('é', 2.25) }} {{ '{:>5}|{}'.format('ab', 3) }} {{ "%s-%s" | format(1, none) }} {{ 3 ~ none ~ true }}""",
    "set blocks": """{% set intro %}System: {{ messages[0].content if messages else 'none' }}
{% endset %}{{ intro | trim }}{% filter upper %}{% for m in messages %} {{ m.role }}{% endfor %}{% endfilter %}""",
    "call blocks": """{% macro box(title) %}[{{ title }}: {{ caller() }}]{% endmacro %}
{% for m in messages %}{% call box(m.role) %}{{ m.content }}{% endcall %}{% endfor %}""",
    "recursive schema": """{%- macro show(schema, depth=0) -%}
{{ '  ' * depth }}{{ schema.type | default('any') }}
{% for name in schema.properties or {} %}{{ '  ' * depth }}- {{ name }}:
{{ show(schema.properties[name], depth + 1) }}{% endfor %}
{%- endmacro -%}
{%- for tool in tools or [] %}{{ show(tool.function.parameters) }}{% endfor %}{{ messages | length }}""",
    "recursive loop": """{% for m in messages recursive %}<{{ m.role if m.role is defined else m.type }}
{%- if m.content is defined and m.content is iterable and m.content is not string %}{{ loop(m.content) }}{% endif %}>{% endfor %}""",
    "string methods": """{% for m in messages %}{% set c = m.content if m.content is string else '' %}
{{ c.strip().split(' ')[0] }}{{ c.startswith('Hello') }}{{ c.upper().lower().title() }}{{ c.rstrip('?') }}{{ '-'.join(c.split()) }}
{{ c.replace('e', '3', 1) }}{{ c.find('o') }}{{ c[:4] }}{{ c[-1:] }}
{% endfor %}""",
    "dictionaries": """{% for m in messages %}{% for key, value in m.items() %}{{ key }}={{ value }};{% endfor %}
{{ m.get('name', 'nobody') }} {{ 'role' in m }} {{ m | tojson }}
{% endfor %}{{ dict(a=1, b='ü') | tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': [2]} | tojson(sort_keys=true) }}
{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}""",
    "undefined": """{{ nothing }}{{ nothing is defined }}{{ messages[99] is defined }}{{ pad_token }}{{ tools is none }}
{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ add_generation_prompt }}
{{- nothing.deeper }}""",
    "numbers of tokens": """{{ bos_token ~ eos_token + unk_token }}{{ cls_token | default('no cls') }}
{%- for n in range(3) %}{{ n }}{% else %}none{% endfor %}{% for n in [] %}{% else %}empty{% endfor %}""",
    "with and include": """{% with a = messages | length, b = 2 %}{{ a + b }}{% endwith %}{% if false %}{% include 'x' %}{% endif %}
{{ messages | selectattr('role', 'in', ['user']) | list | length }} {{ messages | groupby('role') | map('first') | list }}""",
    "joiners": """{% set sep = joiner(', ') %}{% set colour = cycler('red', 'blue') %}{% for m in messages %}{{ sep() }}{{ m.role }} {{ colour.next() }}{% endfor %}""",
    "raw": """{% raw %}{{ not this }}{% endraw %}{{ '{{' }}{% for m in messages %}{{ m.content }}{% endfor %}{{ '\\n\\t"' }}\\n""",
    "sandboxed": """{{ messages.append(1) }}""",
    "hidden attributes": """{{ ''.__class__.__mro__ }}{{ messages.__len__ }}""",
    "syntax error": """{% for m in messages %}{{ m.role }""",
}
