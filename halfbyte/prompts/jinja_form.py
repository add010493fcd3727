"""Writes a chat template in Jinja from the fixed texts around a conversation."""

from __future__ import annotations

import json

# Without whitespace outside of tags: what is not in an expression would be written into every prompt. The checks are
# those of Template.render, so that a message refused there is refused here.
_FORM = (
    "{% set offset = 1 if messages and messages[0]['role'] == 'system' else 0 %}"
    "{% for message in messages %}"
    "{% set due = 'system' if loop.index0 < offset else"
    " ('user' if (loop.index0 - offset) % 2 == 0 else 'assistant') %}"
    "{% if message['role'] != due %}{{ raise_exception('messages[' ~ loop.index0 ~ ']: role is ' ~ message['role'] ~"
    " ' where ' ~ due ~ ' is due') }}{% endif %}"
    "{% if not message['content'] | trim %}"
    "{{ raise_exception('messages[' ~ loop.index0 ~ ']: content is empty') }}{% endif %}"
    "{% endfor %}"
    "{% if messages | length == offset %}{{ raise_exception('a message from the user is missing') }}{% endif %}"
    "{{ $before_system }}{% if offset %}{{ messages[0]['content'] }}{% else %}{{ $system }}{% endif %}"
    "{{ $after_system }}"
    "{% for message in messages[offset:] %}"
    "{% if message['role'] == 'user' %}{% if not loop.first %}{{ $between }}{% endif %}"
    "{{ $before_user }}{{ message['content'] }}"
    "{% if loop.last and add_generation_prompt %}{{ $after_user }}{% endif %}"
    "{% else %}{{ $before_answer }}{{ message['content'] }}{{ $after_assistant }}{% endif %}"
    "{% endfor %}"
)


def jinja_form(system: tuple[str, str, str], user: tuple[str, str], assistant: tuple[str, str, str]) -> str:
    """A Jinja chat template.

    system: (before, the default text, after). user: (between an answer and the next turn, before). assistant: (between
    the user's words and the model's, before an answer of the history, after one).
    """
    after_user, before_answer, after_assistant = assistant
    texts = {
        "before_system": system[0], "system": system[1], "after_system": system[2],
        "between": user[0], "before_user": user[1],
        "after_user": after_user, "before_answer": after_user + before_answer, "after_assistant": after_assistant,
    }  # fmt: skip
    form = _FORM
    for name, text in texts.items():
        form = form.replace("{{ $" + name + " }}", "{{ " + json.dumps(text) + " }}" if text else "")
    return form
