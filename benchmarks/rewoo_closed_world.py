"""Plans against ReAct in a closed world, the part of benchmarks/rewoo.py that needs a model."""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from typing import TYPE_CHECKING

from rewoo_examples import examples_for
from rewoo_react import react
from rewoo_world import LOOKUP, correct, lookup

from halfbyte.errors import PlanError, RunError, ToolError
from halfbyte.rewoo import Executor, parse_plan, plan_grammar, tool, tools
from halfbyte.rewoo.completion import Completion
from halfbyte.rewoo.planner import few_shot_prompt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from halfbyte import LLM
    from halfbyte.rewoo import Tool
    from halfbyte.rewoo.completion import Model

    Outcome = tuple[str, list[tuple[int, int]], str]  # answer, tokens read and written a call, transcript

METHODS = ("react", "react with KnowledgeModel", "plans")
MOST_STEPS = 7
READS = "Answer a question about a document, in words of that document."
# The reader's own worked example, of no company.
READING = """\
Salt Roads was written in 1931 by Nell Amory, an aunt of Dora Orrin.
Question: Who wrote Salt Roads?
Short answer: Nell Amory
Question: In which year was Salt Roads written?
Short answer: 1931"""


class Together:
    """A model that answers what is waiting as one batch, without a chat template: prompts end where it is to go on."""

    def __init__(self, llm: LLM, most: int) -> None:
        self._llm, self._most = llm, most
        self._waiting: list[tuple[str, int, str | None, asyncio.Future[Completion]]] = []
        self._work: asyncio.Task[None] | None = None

    async def complete(self, prompt: str, *, max_tokens: int = 512, grammar: str | None = None) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, max_tokens, grammar, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer())
        return await future

    async def _answer(self) -> None:
        from halfbyte import SamplingParams

        while self._waiting:
            await asyncio.sleep(0.01)
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            params = [SamplingParams(temperature=0, max_tokens=most, grammar=g) for _, most, g, _ in batch]
            prompts = [prompt for prompt, *_ in batch]
            outputs = await asyncio.to_thread(self._llm.generate, prompts, params, use_tqdm=False)
            for output, (*_, future) in zip(outputs, batch, strict=True):
                if output.outputs:
                    made = output.outputs[0]
                    future.set_result(Completion(made.text, len(output.prompt_token_ids or ()), len(made.token_ids)))
                else:
                    future.set_exception(ToolError(str(output.error)))


async def _lookup(query: str) -> str:
    return lookup(query)


async def planned(model: Model, chosen: list[Tool], question: str) -> Outcome:
    """No answer if the plan fails."""
    prompt = few_shot_prompt(chosen, [(e.question, e.as_plan()) for e in examples_for(question)], question)
    written = await model.complete(prompt, max_tokens=400, grammar=plan_grammar(chosen, MOST_STEPS, question))
    tokens, answer = [(written.prompt_tokens, written.completion_tokens)], ""
    try:
        result = await Executor(chosen).run(parse_plan(written.text, chosen))
        answer, trace = result.answer, result.trace
    except PlanError as e:
        return "", tokens, f"{written.text}\n{e}"
    except RunError as e:
        trace = e.trace
    tokens += [(s.prompt_tokens, s.completion_tokens) for s in trace.steps if s.prompt_tokens]
    told = "\n".join(f"{s.id}: {s.tool}[{s.input}] -> {s.evidence or s.error}" for s in trace.steps)
    return answer, tokens, f"{written.text}\n---\n{told}"


async def compare(
    model: Model, asked: list[dict[str, str]], wanted: list[str], show: Callable[..., None], verbose: bool
) -> None:
    """Each method on all questions at a time."""
    reader = tools.knowledge_model(model, quote=True, instruction=READING, max_tokens=24).with_options(
        description=READS
    )
    chosen = [
        tool(name="Lookup", description=LOOKUP, form="quote", gives_pages=True)(_lookup),
        reader,
        tools.calculator,
    ]
    ways: dict[str, Callable[[str], Awaitable[Outcome]]] = {
        "react": functools.partial(react, model, [chosen[0], tools.calculator]),
        "react with KnowledgeModel": functools.partial(react, model, chosen),
        "plans": functools.partial(planned, model, chosen),
    }
    totals = {}
    for name in wanted:
        start = time.perf_counter()
        outcomes = await asyncio.gather(*(ways[name](question["question"]) for question in asked))
        kinds: dict[str, list[bool]] = {}
        for question, (answer, tokens, said) in zip(asked, outcomes, strict=True):
            kinds.setdefault(question["kind"], []).append(correct(question, answer))
            if verbose:
                show(method=name, question=question["question"], right=question["answer"], answer=answer,
                     correct=correct(question, answer), read=sum(r for r, _ in tokens), calls=len(tokens),
                     said=said)  # fmt: skip
        rights = [right for of_kind in kinds.values() for right in of_kind]
        read = statistics.mean(sum(r for r, _ in tokens) for _, tokens, _ in outcomes)
        wrote = statistics.mean(sum(w for _, w in tokens) for _, tokens, _ in outcomes)
        totals[name] = (sum(rights), read)
        show(benchmark="closed world", method=name, questions=len(rights), right=sum(rights),
             by_kind={kind: sum(r) for kind, r in kinds.items()}, prompt_tokens=round(read, 1),
             completion_tokens=round(wrote, 1), calls=round(statistics.mean(len(t) for _, t, _ in outcomes), 2),
             seconds=round(time.perf_counter() - start, 1))  # fmt: skip
    for name in [name for name in totals if name != "plans" and "plans" in totals]:
        show(benchmark=f"plans over {name}", prompt_tokens_ratio=round(totals["plans"][1] / totals[name][1], 3),
             limit=0.333, right_more=totals["plans"][0] - totals[name][0])  # fmt: skip
