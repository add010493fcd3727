"""ReAct, the baseline of benchmarks/rewoo.py: think, act, observe, with everything so far read again at each turn.

It has what plans have: the same tools, examples and model, and a grammar that keeps actions in form. A name that it
looks up stands in the question or in an observation (for plans: in the question or in evidence), a calculation is
arithmetic, it looks up something before it finishes, and its answer is words it has seen. Without a KnowledgeModel,
as in ReAct's paper, it reads for itself; with one, it may ask it about the document that it looked up last.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rewoo_examples import examples_for

from halfbyte.errors import ToolError
from halfbyte.rewoo.quotes import quote_terminal

if TYPE_CHECKING:
    from halfbyte.rewoo import Tool
    from halfbyte.rewoo.completion import Model

HEAD = "Answer the question by turns of Thought, Action and Observation. The actions:\n"
FINISH = "Finish[input]: Give the answer to the question.\n\n"
MOST_TURNS = 8  # the longest question takes 7; in the last, only Finish is allowed
REPEATED = "This was done already. Look up another name, or finish."


def turn_grammar(tools: list[Tool], seen: str, *, first: bool, last: bool) -> str:
    calls = {
        "Lookup": '"Lookup[" QUOTE "]"',
        "KnowledgeModel": '"KnowledgeModel[" ASKED "?]"',
        "Calculator": '"Calculator[" SUM "]"',
    }
    allowed = ['"Finish[" QUOTE "]"'] if not first else []
    if not last:
        allowed += [calls[tool.name] for tool in tools if not first or tool.name == "Lookup"]
    return (
        f'start: "Thought: " THOUGHT "\\nAction: " ({" | ".join(allowed)})\n'
        "THOUGHT: /[^\\n\\[\\]]{1,120}/\nASKED: /[^\\n\\[\\]?]{1,120}/\nSUM: /[0-9+\\-*\\/%.() ]{1,40}/\n"
        + quote_terminal(re.sub(r"[\[\]:#]", " ", seen))
    )


async def react(model: Model, tools: list[Tool], question: str) -> tuple[str, list[tuple[int, int]], str]:
    """The answer, tokens read and written by each call of the model, and what was said."""
    listed = "".join(f"{tool.name}[input]: {tool.description}\n" for tool in tools)
    names = tuple(tool.name for tool in tools)
    head = (
        HEAD
        + listed
        + FINISH
        + "".join(f"Question: {e.question}\n{e.as_turns(names)}\n\n" for e in examples_for(question))
    )
    said, known, document, tokens = f"Question: {question}\n", question, "", []
    done: set[str] = set()
    for turn in range(1, MOST_TURNS + 1):
        grammar = turn_grammar(tools, known, first=turn == 1, last=turn == MOST_TURNS)
        answer = await model.complete(head + said, max_tokens=96, grammar=grammar)
        tokens.append((answer.prompt_tokens, answer.completion_tokens))
        action = re.search(r"Action: (\w+)\[(.*?)\]", answer.text)
        if action is None or action[1] == "Finish":
            return (action[2] if action else ""), tokens, said + answer.text
        found = REPEATED
        if action[0] not in done:
            chosen = next(tool for tool in tools if tool.name == action[1])
            given = f", given {document}?" if action[1] == "KnowledgeModel" else ""
            try:
                evidence = await chosen.call(action[2].removesuffix("?" if given else "") + given)
                found = evidence.text
                tokens += [(evidence.prompt_tokens, evidence.completion_tokens)] if evidence.prompt_tokens else []
            except ToolError as e:
                found = str(e)
        document = found if action[1] == "Lookup" and found != REPEATED else document
        done.add(action[0])
        said += f"{answer.text}\nObservation: {found}\n"
        known += f"\n{found}"
    return "", tokens, said
