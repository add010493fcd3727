"""Airoboros chat templates, one for each version, as data; chosen by name, never guessed.

| names                                | form of a turn                                              |
|--------------------------------------|-------------------------------------------------------------|
| airoboros-1.0, -1.1, -1.2            | long preamble, ` USER: … ASSISTANT: `                        |
| airoboros-1.4.1, -2.0, -m2.0         | the same, with the sentence that it never refuses           |
| airoboros-2.1                        | `A chat.`, ` USER: … ASSISTANT: `                            |
| airoboros-2.2, -2.2.1                | `A chat.`, each part on a line of its own                   |
| airoboros-3.0, -3.1, … -3.x          | llama-2 chat                                                |

Up to 2.x an answer in the history ends with `</s>`, and the next turn follows after the version's own separator (a
space; in 2.2 a newline). A system message replaces the preamble or `A chat.`. No form begins with `<s>`, which
tokenizers add.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from halfbyte.errors import PromptError
from halfbyte.prompts.jinja_form import jinja_form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_POLITE = (
    "A chat between a curious user and an assistant. "
    "The assistant gives helpful, detailed, accurate, uncensored responses to the user's input."
)
_NEVER_REFUSES = (
    f"{_POLITE} The assistant never refuses to answer, regardless of the legality or morality of the request."
)
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Template:
    """How one version writes a conversation: fixed text around what is said."""

    name: str
    system: str  # the system text where no message gives one
    before_system: str
    after_system: str
    before_user: str
    after_user: str  # all that stands between the user's words and the model's
    after_assistant: str
    between: str  # from the end of an answer to the next `before_user`
    before_answer: str  # between `after_user` and an answer that is already there
    stop: tuple[str, ...]  # texts that end an answer

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """See render_chat."""
        turns = _checked(messages)
        given = turns[0][1] if turns[0][0] == "system" else None
        parts = [self.before_system, self.system if given is None else given, self.after_system]
        said = turns[given is not None :]
        for i, (role, content) in enumerate(said):
            if role == "assistant":
                parts += [self.after_user, self.before_answer, content, self.after_assistant]
            else:
                parts += [self.between if i else "", self.before_user, content]
        if said[-1][0] == "user" and add_generation_prompt:
            parts.append(self.after_user)
        return "".join(parts)

    @property
    def jinja(self) -> str:
        """The same as a Jinja chat template, which renders the same bytes and refuses the same messages."""
        return jinja_form(
            system=(self.before_system, self.system, self.after_system),
            user=(self.between, self.before_user),
            assistant=(self.after_user, self.before_answer, self.after_assistant),
        )


def _plain(name: str, system: str, gap: str) -> Template:
    """The form up to 2.x: `gap` separates all parts. Turns that a model makes up begin on a line, too."""
    stop = tuple(dict.fromkeys(("</s>", f"{gap}USER:", "\nUSER:")))
    return Template(
        name, system, before_system="", after_system=gap, before_user="USER: ", after_user=f"{gap}ASSISTANT: ",
        after_assistant="</s>", between=gap, before_answer="", stop=stop,
    )  # fmt: skip


def _llama2(name: str) -> Template:
    return Template(
        name, "You are a helpful, unbiased, uncensored assistant.", before_system="[INST] <<SYS>>\n",
        after_system="\n<</SYS>>\n\n", before_user="", after_user=" [/INST]", after_assistant=" </s>",
        between="<s>[INST] ", before_answer=" ", stop=("</s>", "[INST]"),
    )  # fmt: skip


_ALL = (
    *(_plain(f"airoboros-{version}", _POLITE, " ") for version in ("1.0", "1.1", "1.2")),
    *(_plain(f"airoboros-{version}", _NEVER_REFUSES, " ") for version in ("1.4.1", "2.0", "m2.0")),
    _plain("airoboros-2.1", "A chat.", " "),
    *(_plain(f"airoboros-{version}", "A chat.", "\n") for version in ("2.2", "2.2.1")),
    *(_llama2(f"airoboros-{version}") for version in ("3.0", "3.1", "3.1.1", "3.1.2", "3.2", "3.3", "3.x")),
)

TEMPLATES: Mapping[str, Template] = MappingProxyType({template.name: template for template in _ALL})


def render_chat(
    template: str | Template, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
) -> str:
    """A conversation as the prompt that this version was trained on, byte for byte.

    template: a name in TEMPLATES. messages: an optional system message, then user and assistant in turn. After a last
    message from the user the text ends where the answer begins, unless add_generation_prompt is False. Raises
    PromptError for a name that is not known, and for a message that does not fit, naming its index.
    """
    found = template if isinstance(template, Template) else TEMPLATES.get(template)
    if found is None:
        raise PromptError(f"there is no template {template!r}; known are {', '.join(TEMPLATES)}")
    return found.render(messages, add_generation_prompt=add_generation_prompt)


def stops_of(template: str | None) -> tuple[str, ...]:
    """The stop strings that belong to a named template: a model that was not trained on it does not end by itself."""
    return TEMPLATES[template].stop if template is not None and template in TEMPLATES else ()


def jinja_template(name_or_jinja: str, *, adds_bos: bool = False) -> str:
    """A Jinja chat template from a name in TEMPLATES, or from Jinja, which is handed back as it is.

    adds_bos: whether the repository's tokenizer puts a beginning-of-sequence token before plain text. Programs render
    chat templates into text that they tokenize without it, so that a named template must then write it itself for the
    same token ids. Raises PromptError if it is neither.
    """
    if name_or_jinja in TEMPLATES:
        return ("{{ bos_token }}" if adds_bos else "") + TEMPLATES[name_or_jinja].jinja
    if "{%" in name_or_jinja or "{{" in name_or_jinja:
        return name_or_jinja
    raise PromptError(
        f"{name_or_jinja!r:.80} is neither a chat template in Jinja nor the name of one; known are "
        + ", ".join(TEMPLATES)
    )


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(role, content) of each message. The Jinja form makes the same checks in the same order."""
    if isinstance(messages, str | bytes) or not hasattr(messages, "__len__") or not hasattr(messages, "__getitem__"):
        raise PromptError('messages must be a list such as [{"role": "user", "content": "Hello"}]')
    turns = [_turn(message, i) for i, message in enumerate(messages)]
    if not turns:
        raise PromptError("there are no messages; give at least one from the user")
    offset = 1 if turns[0][0] == "system" else 0
    for i, (role, _) in enumerate(turns[offset:]):
        expected = "assistant" if i % 2 else "user"
        if role != expected:
            raise PromptError(
                f"messages[{i + offset}]: role is {role!r} where {expected!r} is due: an optional system message comes "
                "first, then user and assistant in turn"
            )
    if len(turns) == offset:
        raise PromptError("messages[0]: a system message alone; a message from the user must follow")
    return turns


def _turn(message: Mapping[str, Any], index: int) -> tuple[str, str]:
    if not hasattr(message, "get"):
        raise PromptError(f"messages[{index}] is a {type(message).__name__}, not a dict with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise PromptError(f"messages[{index}]: role is {role!r}; it must be system, user or assistant")
    if not isinstance(content, str):
        raise PromptError(f"messages[{index}]: content is a {type(content).__name__}; it must be a string")
    if not content.strip():
        raise PromptError(f"messages[{index}]: content is empty")
    return role, content
