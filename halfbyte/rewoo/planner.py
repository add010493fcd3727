"""The planner's prompt, in the words that the airoboros models were trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.rewoo.tool import tool_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from halfbyte.rewoo.plan import Problem
    from halfbyte.rewoo.tool import Tool

HEAD = (
    "Please construct a systematic plan to generate an optimal response to the user instruction, utilizing a set of "
    "provided tools. Each plan will correspond to an evidence value, which will be the output of one of the available "
    "functions given an input string that could be the user's question, one or more prior evidence values, or a "
    "combination of both.\n"
    "\n"
    "Here are the tools available to be called:\n"
)
FORMAT = (
    "The output should be in format:\n"
    "Plan: [first action to take based on input question]\n"
    ":evidence0: = [function to call with input parameter]\n"
    "Plan: [next action to take, based on result of :evidence0:]\n"
    ":evidence1: = [next function to call and input parameter, which may include reference to previous evidence, "
    'e.g. "Given context :evidence0"]\n'
    "...\n"
    "Answer: [:evidence[n]: containing the final answer.]\n"
)
BRIEF_HEAD = "Plan how to answer the question with tools, each step's output being evidence for later steps:\n"


def planner_prompt(tools: Iterable[Tool], question: str) -> str:
    """What stands between USER: and ASSISTANT: to have a plan made, as in the model card, byte for byte."""
    listed = "".join(f"{tool.name}[input]: {tool.description}\n" for tool in tool_table(tools).values())
    return f"{HEAD}{listed}\n{FORMAT}\nQuestion: {question}"


def few_shot_prompt(tools: Iterable[Tool], examples: Iterable[tuple[str, str]], question: str) -> str:
    """A shorter prompt for models that were not trained on the card's: worked examples show the form.

    examples: questions with their plans. The answer goes on where the last example would, so that it may also be handed
    to a model as it stands, without a chat template.
    """
    listed = "".join(f"{tool.name}[input]: {tool.description}\n" for tool in tool_table(tools).values())
    shown = "".join(f"Question: {asked}\n{plan.strip()}\n\n" for asked, plan in examples)
    return f"{BRIEF_HEAD}{listed}\n{shown}Question: {question}\n"


def repair_prompt(prompt: str, plan: str, problems: Sequence[Problem | str]) -> str:
    """The planner's prompt once more, with a plan that did not work and why."""
    why = "\n".join(str(problem) for problem in problems)
    told = f"This plan did not work:\n{plan.strip()}\n\nThe error was:\n{why}"
    return f"{prompt}\n\n{told}\n\nWrite another plan that avoids it."


SOLVER_PROMPT = """\
Answer the question with the help of the plans and evidence below. Evidence may be noisy or wrong: judge it.

Question: {question}

{evidence}

Question: {question}
{instruction}Answer directly, with no extra words.
"""


def solver_prompt(question: str, evidence: Sequence[tuple[str, str, str]], instruction: str = "") -> str:
    """What asks a model for the answer when a plan has a Solver; evidence: (plan, label, text) of each step."""
    told = "\n".join(f"Plan: {plan}\nEvidence {label}: {text}" for plan, label, text in evidence)
    instruction = f"{instruction}\n" if instruction else ""
    return SOLVER_PROMPT.format(question=question, evidence=told, instruction=instruction)
