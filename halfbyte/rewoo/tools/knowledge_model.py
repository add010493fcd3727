"""KnowledgeModel: a language model that answers a question, mostly by evidence within it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.rewoo.tool import Evidence, tool

if TYPE_CHECKING:
    from halfbyte.rewoo.completion import Model
    from halfbyte.rewoo.tool import Tool

DESCRIPTION = (
    "Question answering language model, particularly useful in answering questions based on an input passage of text. "
    "The input must be a text question that references an :evidence[n]: variable, e.g. What color is the cat, given "
    ":evidence1:?"
)


def knowledge_model(
    model: Model, *, instruction: str = "", max_tokens: int = 256, timeout: float = 120.0, at_once: int | None = None
) -> Tool:
    """The tool, with a `LocalModel` or an `Endpoint` behind it.

    instruction: put before every question. timeout: seconds of one answer. at_once: most questions at a time.
    """

    @tool(
        name="KnowledgeModel",
        description=DESCRIPTION,
        timeout=timeout,
        retries=2,
        concurrency=at_once,
        takes_gaps=True,
    )
    async def ask(question: str) -> Evidence:
        prompt = f"{instruction}\n\n{question}" if instruction else question
        answer = await model.complete(prompt, max_tokens=max_tokens)
        return Evidence(answer.text.strip(), answer.prompt_tokens, answer.completion_tokens)

    return ask
