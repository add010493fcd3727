"""ReAct, the baseline of benchmarks/rewoo.py: think, act, observe, with everything so far read again at each turn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rewoo_examples import EXAMPLES
from rewoo_world import LOOKUP, lookup

if TYPE_CHECKING:
    from halfbyte.rewoo.completion import Model

INSTRUCTION = f"""\
Answer the question by turns of Thought, Action and Observation. A Thought says what is needed next.
An Action is one of:
Lookup[input]: {LOOKUP}
Finish[answer]: Give the answer to the question.
"""
# The same help that the plan's grammar gives: a turn cannot be malformed.
GRAMMAR = """\
start: "Thought: " TEXT "\\nAction: " tool "[" ARGUMENT "]"
tool: "Lookup" | "Finish"
TEXT: /[^\\n\\[\\]]{1,120}/
ARGUMENT: /[^\\n\\[\\]]{1,80}/
"""
MOST_TURNS = 6  # in the last, only Finish is allowed


def shown(turns: tuple[tuple[str, str, str | None], ...]) -> str:
    return "\n".join(
        f"Thought: {thought}\nAction: {action}" + (f"\nObservation: {seen}" if seen is not None else "")
        for thought, action, seen in turns
    )


async def react(model: Model, question: str) -> tuple[str, int, int]:
    """The answer, and all tokens read and written for it."""
    examples = "\n\n".join(f"Question: {e.question}\n{shown(e.turns)}" for e in EXAMPLES)
    # The question again before the next turn, which keeps weak models from going on with an example's.
    head, seen = f"{INSTRUCTION}\nExamples:\n\n{examples}\n\nThe examples end here.\n\nQuestion: {question}\n", ""
    read = written = 0
    for turn in range(1, MOST_TURNS + 1):
        grammar = GRAMMAR if turn < MOST_TURNS else GRAMMAR.replace('"Lookup" | ', "")
        prompt = f"{head}{seen}\nWhat are the next Thought and Action, to find out: {question}"
        answer = await model.complete(prompt, max_tokens=96, grammar=grammar)
        read, written = read + answer.prompt_tokens, written + answer.completion_tokens
        action = re.search(r"Action: (Lookup|Finish)\[(.*?)\]", answer.text)
        if action is None or action[1] == "Finish":
            return (action[2] if action else answer.text), read, written
        again = f"Action: {action[1]}[{action[2]}]" in seen
        found = "You have seen this already. Look up a name that it tells, or finish." if again else lookup(action[2])
        seen += f"{answer.text}\nObservation: {found}\n"
    return "", read, written
