"""Chat templates: Jinja in a sandbox, with the extras that templates on the Hub expect."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from jinja2.parser import Parser

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")  # one thing under the names that clients use


def render_chat_template(template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """Render a template with `messages` and other variables, as transformers' `apply_chat_template` does.

    Raises TokenizerError for messages that are not chat messages (naming which), and for a template that is not valid,
    fails, or refuses the messages (naming its line).
    """
    chat = check_messages(messages)
    try:
        compiled, reads_parts = _compile(template)
        if not reads_parts:
            chat = [_join_parts(message) for message in chat]
        return compiled.render(messages=chat, **{key: _plain(value, key) for key, value in variables.items()})
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(f"chat template, line {error.lineno}: not valid Jinja: {error.message}") from error
    except TokenizerError:
        raise
    except Exception as error:  # a template is a program and may fail with anything
        raise TokenizerError(f"chat template{_line_of(error)}: {str(error) or type(error).__name__}") from error


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as plain JSON values without null entries, checked: each a role and a content.

    Content is a string or a list of text parts; it may be absent where there are tool calls.
    """
    if isinstance(messages, str | bytes | dict) or not hasattr(messages, "__len__"):
        raise TokenizerError('chat messages must be a list such as [{"role": "user", "content": "Hello"}]')
    if not messages:
        raise TokenizerError("a chat needs at least one message")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _check_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise TokenizerError(f"{where} is a {type(message).__name__}, not a dict with role and content")
    plain = {key: value for key, value in _plain(message, where).items() if value is not None}
    if not isinstance(plain.get("role"), str) or not plain["role"]:
        raise TokenizerError(f'{where}: "role" must be a string such as "user", not {message.get("role")!r}')
    _check_content(plain, where)
    reasoning = next((plain[key] for key in _REASONING_KEYS if key in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _check_content(message: dict[str, Any], where: str) -> None:
    content = message.get("content")
    if isinstance(content, str) or (content is None and ("tool_calls" in message or "function_call" in message)):
        return
    if not isinstance(content, list):
        found = "is missing" if content is None else f"is a {type(content).__name__}"
        raise TokenizerError(f'{where}: "content" {found}; it must be a string or a list of text parts')
    for i, part in enumerate(content):
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise TokenizerError(f'{where}: content[{i}] is not a text part {{"type": "text", "text": ...}}')


def _join_parts(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its text parts as one string, for templates that know only strings."""
    if not isinstance(message.get("content"), list):
        return message
    return {**message, "content": "\n".join(part["text"] for part in message["content"])}


def _plain(value: Any, where: str) -> Any:
    """A copy made of JSON types alone: methods of richer objects are not for a downloaded template to call."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TokenizerError(f"{where} is a {type(value).__name__}; a chat template takes only JSON values")


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training; here it only groups them."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a call that hands back its body: names set inside stay inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


@lru_cache(maxsize=32)
def _compile(template: str) -> tuple[jinja2.Template, bool]:
    """The template, and whether it knows content that is a list of parts (it then reads some part's `text`)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    tree = environment.parse(template)
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    items = {node.arg.value for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Const)}
    return environment.from_string(template), "text" in attributes | items


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _line_of(error: Exception) -> str:
    """The template line that an error left from; Jinja maps tracebacks back to the template."""
    line = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return "" if line is None else f", line {line}"
