"""KnowledgeModel: a language model that answers a question, mostly by evidence within it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from halfbyte.rewoo.quotes import answer_terminal, relevant
from halfbyte.rewoo.tool import Evidence, tool

if TYPE_CHECKING:
    from halfbyte.rewoo.completion import Model
    from halfbyte.rewoo.tool import Tool

DESCRIPTION = (
    "Question answering language model, particularly useful in answering questions based on an input passage of text. "
    "The input must be a text question that references an :evidence[n]: variable, e.g. What color is the cat, given "
    ":evidence1:?"
)


_GIVEN = re.compile(r"\bgiven\b(?: (?:the )?(?:context|evidence|passage|text)\b)?:?", re.IGNORECASE)


def knowledge_model(
    model: Model,
    *,
    instruction: str = "",
    max_tokens: int = 256,
    timeout: float = 120.0,
    at_once: int | None = None,
    quote: bool = False,
) -> Tool:
    """The tool, with a `LocalModel` or an `Endpoint` behind it.

    instruction: put before every question. timeout: seconds of one answer. at_once: most questions at a time.
    quote: put what is "given" before the question, less what does not bear on it if it is long, and have a few words of
    it for an answer (by a grammar, where the model takes one): weak models then read off what they would make up. Not
    for questions that need other words.
    """

    @tool(
        name="KnowledgeModel",
        description=DESCRIPTION,
        timeout=timeout,
        retries=2,
        concurrency=at_once,
        takes_gaps=True,
        form="asks",
    )
    async def ask(question: str) -> Evidence:
        asked, grammar = quoting(question) if quote else (question, None)
        prompt = f"{instruction}\n\n{asked}" if instruction else asked
        answer = await model.complete(prompt, max_tokens=max_tokens, grammar=grammar)
        return Evidence(answer.text.strip(), answer.prompt_tokens, answer.completion_tokens)

    return ask


def quoting(question: str) -> tuple[str, str | None]:
    """The question behind the passage that it is asked about, and a grammar of that passage's words."""
    parts = _GIVEN.split(question, maxsplit=1)
    asked = parts[0].strip(" ,;:?\n")
    passage = relevant(parts[1].strip().removesuffix("?").strip(), asked) if len(parts) == 2 else ""
    words = answer_terminal(passage, asked)
    if not words or not passage:
        return question, None
    return f"{passage}\nQuestion: {asked}?\nShort answer:", f'start: " "? QUOTE "\\n"?\n{words}\n'
