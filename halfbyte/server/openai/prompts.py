"""The forms that a prompt may have where there is no conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import WithJsonSchema

from halfbyte.engine.prompt import ReadPrompt
from halfbyte.server.problems import ServerProblem
from halfbyte.server.reading import cut, read_text

if TYPE_CHECKING:
    from halfbyte.server.models import ServedModel

FORMS = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1}, "minItems": 1},
    ]
}
Prompts = Annotated[Any, WithJsonSchema(FORMS)]  # checked by read_prompts, whose message is clearer than a union's


async def read_prompts(
    value: Any, model: ServedModel, name: str, most: int, *, keep: int | None = None, add_special_tokens: bool = True
) -> list[ReadPrompt]:
    """A text, texts, token ids or lists of token ids, as prompts.

    name: the field's. most: prompts that are taken. keep: so many of each prompt's last tokens. Raises ServerProblem
    for what has none of these forms.
    """
    prompts = []
    for prompt in _listed(value, name, most):
        if isinstance(prompt, str):
            read = await read_text(model, prompt, add_special_tokens=add_special_tokens)
        else:
            read = ReadPrompt(None, prompt)
        prompts.append(cut(read, keep))
    return prompts


def _listed(value: Any, name: str, most: int) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if _are_ids(value):
        return [value]
    if not isinstance(value, list) or not (_all_texts(value) or all(_are_ids(prompt) for prompt in value)) or not value:
        forms = "must be a text, a list of texts, a list of token ids, or a list of such lists; none empty"
        raise ServerProblem(400, f"{name} {forms}", param=name)
    if len(value) > most:
        raise ServerProblem(400, f"{len(value)} prompts in one request; at most {most} are taken", param=name)
    return value


def _all_texts(value: list[Any]) -> bool:
    return all(isinstance(prompt, str) for prompt in value)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int for i in value)
