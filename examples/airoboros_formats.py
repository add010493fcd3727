"""Each airoboros format, asked of a real model and read back.

    python examples/airoboros_formats.py MODEL

Prints what was asked, what came, and what the reader made of it, failures included. Answers are greedy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from halfbyte import LLM, SamplingParams
from halfbyte.errors import PlanError, PromptError
from halfbyte.prompts.context import Block, ContextPrompt
from halfbyte.prompts.cot import ChainOfThought
from halfbyte.prompts.functions import FunctionPrompt
from halfbyte.prompts.plainformat import ask_plain, plain_code
from halfbyte.rewoo import parse_plan, plan_grammar, planner_prompt, tools
from halfbyte.rewoo.completion import LocalModel


def file_analytics(action: str, filters: dict[str, str]) -> None:
    """This tool performs various operations on a text file.

    action: The operation we want to perform on the data, such as "count_occurrences", "find_line", etc.
    filters: What to look for.
    """


def get_weather(city: str, days: int = 1) -> None:
    """Tells the weather.

    city: The city.
    days: How many days ahead.
    """


def main(model: str) -> None:
    """Go through the formats."""
    llm = LLM(model)
    context = ContextPrompt(
        [
            Block(
                "In a shocking turn of events, blueberries are now green, but will be sticking with the same name.",
                {"date": "2021-01-01", "url": "https://web.site/123"},
            )
        ],
        "What color are bluberries? Source?",
    )
    show(llm, "Closed context", context.render(), 80, lambda text: [p.message for p in context.check(text).problems])
    functions = FunctionPrompt([get_weather, file_analytics], allow_none=False)
    request = functions.render("What will the weather be in Oslo in 3 days?")
    show(llm, "Function calling, free", request, 80, functions.parse)
    grammar = functions.grammar().lark()
    show(llm, "Function calling, under the grammar", request, 200, functions.parse, grammar=grammar)
    code = ask_plain("Write a Python function that adds two numbers.")
    show(llm, "Plain code", code, 120, lambda text: plain_code(text).code)
    thought = ChainOfThought()
    problem = thought.render("Ann has 3 apples and buys 4 more. How many apples has she?")
    show(llm, "Chain of thought", problem, 200, thought.parse)
    chosen = [tools.duckduckgo(), tools.knowledge_model(LocalModel(llm))]
    question = planner_prompt(chosen, "Who won the Nobel Prize in Literature in 2020?")
    show(llm, "Plan, free", question, 120, lambda text: parse_plan(text, chosen))
    show(
        llm, "Plan, under the grammar", question, 400,
        lambda text: [f"{step.tool}[{step.argument}]" for step in parse_plan(text, chosen).steps],
        grammar=plan_grammar(chosen, 3),
    )  # fmt: skip


def show(
    llm: LLM, title: str, prompt: str, tokens: int, read: Callable[[str], object], grammar: str | None = None
) -> None:
    """Ask, answer, read."""
    params = SamplingParams(temperature=0, max_tokens=tokens, grammar=grammar)
    answer = llm.chat([{"role": "user", "content": prompt}], params, use_tqdm=False)[0].outputs[0].text
    try:
        found = read(answer)
    except (PromptError, PlanError) as error:
        found = f"{type(error).__name__}: {error}"
    print(f"=== {title}\n--- asked\n{prompt}\n--- answered\n{answer}\n--- read\n{found}\n")


if __name__ == "__main__":
    main(sys.argv[1])
