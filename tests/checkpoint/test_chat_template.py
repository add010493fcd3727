"""Chat templates render as in transformers, in a sandbox, with errors that name the line or the message."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from halfbyte.checkpoint.chat_template import render_chat_template
from halfbyte.errors import TokenizerError

USER = [{"role": "user", "content": "Hi <b> & é"}]


def render(template: str, messages: Any = USER, **variables: Any) -> str:
    return render_chat_template(template, messages, variables)


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"é": ["<", 1, None, True]}}}]
TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m['content'] | trim }}\n  {% endif %}\n{% endfor %}",
    "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}|{{ messages[0] | tojson(sort_keys=true) }}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x is defined }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ dict(a=1) }}",
    "{{ documents is none }}{{ tools is none }}{{ add_generation_prompt }}{{ nothing is defined }}{{ strftime_now('%Y') }}",
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endif %}{% endfor %}",
    "{% for m in messages %}{{ m.tool_calls is defined }}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}",
    "{%- macro say(x) -%}\n  <{{ x }}>\n{%- endmacro -%}\n{{ say(messages[-1].role) }}\n\n",
]
CHATS: list[list[dict[str, Any]]] = [
    USER,
    [{"role": "system", "content": ""}, *USER, {"role": "assistant", "content": "  ok\n", "reasoning": "why"}],
    [*USER, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_as_transformers_renders(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for chat in CHATS if "p.text" in template else CHATS[:3]:
        variables = {"bos_token": "<s>", "tools": TOOLS, "documents": None, "add_generation_prompt": True}
        without_null = [{key: value for key, value in message.items() if value is not None} for message in chat]
        [theirs], _ = render_jinja_template([without_null], chat_template=template, **variables)
        assert render(template, chat, **variables) == theirs


def test_parts_for_templates_that_know_only_strings() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert render("{{ messages[0]['content'] + '!' }}", parts) == "a\nb!"
    assert render("{{ messages[0].content[1]['text'] }}", parts) == "b"


def test_the_date() -> None:
    assert render("{{ strftime_now('%Y-%m') }}") == datetime.now().strftime("%Y-%m")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("line 1\n{{ raise_exception('roles must alternate') }}", "chat template, line 2: roles must alternate"),
        ("\n\n{% for %}", "chat template, line 3: not valid Jinja"),
        ("{{ x }\n", "chat template, line 1: not valid Jinja"),
        ("a\n{% for m in messages %}\n{{ m.content + 1 }}{% endfor %}", "chat template, line 3: can only concatenate"),
        ("{{ 1 / 0 }}", "chat template, line 1: division by zero"),
        ("\n{{ nothing.at.all }}", "chat template, line 2: 'nothing' is undefined"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "chat template, line 1: .*unsafe"),
        ("{{ messages.append(1) }}", "chat template, line 1: .*unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "chat template, line 1: maximum recursion"),
        ("{{ range(10**9) | list }}", "chat template, line 1: "),
        ("{% include 'x' %}", "chat template, line 1: "),
    ],
)
def test_failures_name_the_line(template: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        render(template)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hello", "chat messages must be a list"),
        ({"role": "user", "content": "x"}, "chat messages must be a list"),
        (None, "chat messages must be a list"),
        ([], "at least one message"),
        (["x"], r"messages\[0\] is a str, not a dict"),
        ([*USER, {"content": "x"}], r'messages\[1\]: "role" must be a string such as "user", not None'),
        ([{"role": 3, "content": "x"}], r'messages\[0\]: "role" must be a string'),
        ([{"role": "user"}], r'messages\[0\]: "content" is missing'),
        ([{"role": "user", "content": 3}], r'messages\[0\]: "content" is a int'),
        ([{"role": "user", "content": [{"type": "image"}]}], r"messages\[0\]: content\[0\] is not a text part"),
        ([{"role": "user", "content": "x", "file": open}], r"messages\[0\]\['file'\] is a builtin_function_or_method"),
    ],
)
def test_messages_that_are_no_chat(messages: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        render("{{ messages | length }}", messages)


def test_templates_see_only_plain_values() -> None:
    class Sly(str):
        __slots__ = ()

        def upper(self) -> str:
            raise AssertionError("a template must not reach methods of callers' classes")

    assert render("{{ messages[0].content.upper() }}", [{"role": "user", "content": Sly("a")}]) == "A"
    with pytest.raises(TokenizerError, match="secret is a object"):
        render("{{ secret }}", secret=object())
    assert json.loads(render("{{ values | tojson }}", values=(1, 2.5, None))) == [1, 2.5, None]
