"""Plans beside their claims: one JSON object a line.

    python benchmarks/rewoo.py [MODEL] [--questions N] [--show]

Without MODEL: the card's example plan end to end (search results and pages recorded in data/, served on loopback and
scraped through the guard), parallel steps, overhead, parsing, mutated plans. With MODEL, a repository that halfbyte runs:
also plans against ReAct on a closed world (data/rewoo_world.json), the same model, look-up and worked examples for both,
both constrained by a grammar. An answer is correct if it names the right thing and not its rival. Tokens are all that
the model reads and writes for a question.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import random
import statistics
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from rewoo_react import react
from rewoo_world import DATA, LOOKUP, WORLD, correct, lookup, rewoo_question

from halfbyte.errors import HalfbyteError, PlanError
from halfbyte.rewoo import Executor, Limits, parse_plan, plan_grammar, planner_prompt, tool, tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.rewoo.completion import Completion, Model

CARD_PLAN = (DATA / "rewoo_card_plan.txt").read_text("utf-8")
CARD_TOOLS = ("DuckDuckGo", "TextScraper", "HyperlinkExtractor", "KnowledgeModel")


def show(**figures: Any) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)


# -- without a model


@contextlib.contextmanager
def recorded_pages() -> Iterator[str]:
    """A server of the recorded pages; its host:port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(DATA / "rewoo_pages")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class RecordedModel:
    """Answers as a person would who looks for the two facts in what is given; no model is needed for the plumbing."""

    async def complete(self, prompt: str, *, max_tokens: int = 0, grammar: str | None = None) -> Completion:
        from halfbyte.rewoo.completion import Completion

        facts = (("Who won", "Louise Glück", "Louise Glück"), ("most famous work", "The Wild Iris", "The Wild Iris"))
        for asked, needed, answer in facts:
            if prompt.startswith((asked, f"What is the {asked}")):
                return Completion(answer if needed in prompt else "The evidence does not say.")
        return Completion("I do not know.")


async def card_example(model: Model, name: str) -> None:
    with recorded_pages() as where:

        async def search(query: str, count: int) -> list[tools.SearchResult]:
            page = "nobel-2020" if "Nobel" in query else "wild-iris"
            snippet = {"nobel-2020": "Louise Glück won the 2020 prize.", "wild-iris": "Her most famous book."}[page]
            return [tools.SearchResult(f"http://{where}/{page}.html", page, snippet)][:count]

        chosen = [
            tools.duckduckgo(search),
            tools.text_scraper(allow=[where]),
            tools.hyperlink_extractor,
            tools.knowledge_model(model, max_tokens=48),
        ]
        result = await Executor(chosen).run(CARD_PLAN)
    show(
        benchmark="the card's plan, end to end",
        model=name,
        answer=result.answer,
        correct="Wild Iris" in result.answer,
        steps=len(result.evidence),
        seconds=round(result.trace.seconds, 3),
    )


async def nap(text: str) -> str:
    await asyncio.sleep(float(text.split()[0]))
    return "done"


async def parallel() -> None:
    nap_tool = tool(name="Sleep")(nap).with_options(cacheable=False)
    for k in (1, 2, 4, 8, 16):
        plan = parse_plan("".join(f":evidence{n}: = Sleep[1]\n" for n in range(k)))
        result = await Executor([nap_tool]).run(plan)
        show(benchmark="independent 1 s tools", k=k, seconds=round(result.trace.seconds, 4), limit=1.1)
    plan = parse_plan(
        ":evidence0: = Sleep[0.5]\n:evidence1: = Sleep[1.0 :evidence0:]\n:evidence2: = Sleep[0.3 :evidence0:]\n"
        ":evidence3: = Sleep[0.5 :evidence1: :evidence2:]\n"
    )
    result = await Executor([nap_tool]).run(plan)
    show(benchmark="diamond", seconds=round(result.trace.seconds, 4), critical_path=2.0,
         ratio=round(result.trace.seconds / 2.0, 4), limit=1.05)  # fmt: skip


async def overhead() -> None:
    async def echo(text: str) -> str:
        return "y"

    for shape, reference in (("chain", "given :evidence{}:"), ("independent", "")):
        lines = [f":evidence{n}: = E[{n} {reference.format(n - 1) if n else ''}]" for n in range(1000)]
        plan = parse_plan("\n".join(lines))
        seconds = []
        for _ in range(5):
            seconds.append((await Executor({"E": echo}, limits=Limits(calls=None)).run(plan)).trace.seconds)
        per_step = statistics.median(seconds)  # of 1,000 steps in s: of one in ms
        show(benchmark=f"overhead, {shape}", steps=1000, ms_per_step=round(per_step, 4), limit=2.0)


def parsing() -> None:
    text = "Plan: begin\n:evidence0: = A[x]\n" + "".join(
        f"Plan: find {n}\n:evidence{n}: = A[what of {n}, given :evidence{n - 1}:?]\n" for n in range(1, 1000)
    )
    text += "Answer: :evidence999:"
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        parse_plan(text, {"A"})
        seconds.append(time.perf_counter() - start)
    show(benchmark="parse 1,000 steps", ms_median=round(statistics.median(seconds) * 1e3, 2),
         ms_best=round(min(seconds) * 1e3, 2), limit=50)  # fmt: skip


def mutated() -> None:
    rng, parsed, refused, other = random.Random(1), 0, 0, 0
    scraps = (
        ":evidence1:",
        "#E2 = ",
        "[",
        "]",
        "\n",
        "Plan: ",
        "Answer: ",
        "```",
        " = ",
        "DuckDuckGo[",
        "9" * 20,
        "\x00",
        "é",
    )
    for _ in range(10_000):
        text = CARD_PLAN
        for _ in range(rng.randint(1, 8)):
            at, end = rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)
            text = rng.choice(
                (text[:at] + text[at + 9 :], text[:at] + rng.choice(scraps) + text[at:], text[:end] + text[at : at + 40] + text[end:], text[: max(at, 9)])
            )  # fmt: skip
        try:
            parse_plan(text, CARD_TOOLS)
            parsed += 1
        except PlanError as e:
            refused += bool(e.line >= 1 and e.column >= 1)
        except Exception:
            other += 1
    show(benchmark="10,000 mutated plans", parsed=parsed, refused_with_a_position=refused, other=other)


# -- with a model


async def plans_or_react(model: Model, questions: list[dict[str, str]], verbose: bool) -> None:
    looking = tool(name="Lookup", description=LOOKUP)(_lookup)
    knowing = tools.knowledge_model(model, max_tokens=32)
    totals = {"plans": [0, 0, 0], "react": [0, 0, 0]}  # correct, read, written
    unrun = 0
    for question in questions:
        try:
            answer, read, written = await planned(model, [looking, knowing], question["question"])
        except HalfbyteError as e:
            answer, read, written = f"[{e}]", getattr(e, "read", 0), 0
            unrun += 1
        reacted, react_read, react_written, turns = await react(model, question["question"])
        for name, said, r, w in (("plans", answer, read, written), ("react", reacted, react_read, react_written)):
            totals[name] = [a + b for a, b in zip(totals[name], (correct(question, said), r, w), strict=True)]
        if verbose:
            show(question=question["question"], answer=question["answer"], plans=answer, plans_read=read,
                 react=reacted, react_read=react_read, turns=turns)  # fmt: skip
    count = len(questions)
    for name, (right, read, written) in totals.items():
        show(benchmark="closed world", method=name, questions=count, accuracy=round(right / count, 3),
             prompt_tokens=round(read / count, 1), completion_tokens=round(written / count, 1))  # fmt: skip
    show(benchmark="plans over react", prompt_tokens_ratio=round(totals["plans"][1] / totals["react"][1], 3), limit=0.333,
         accuracy_difference=round((totals["plans"][0] - totals["react"][0]) / count, 3), plans_that_failed=unrun)  # fmt: skip


async def _lookup(query: str) -> str:
    return lookup(query)


async def planned(model: Model, chosen: list[Any], question: str) -> tuple[str, int, int]:
    """The answer, and all tokens read and written for it, the plan's included."""
    prompt = planner_prompt(chosen, rewoo_question(question))
    written = await model.complete(prompt, max_tokens=400, grammar=plan_grammar(chosen, 6))
    try:
        result = await Executor(chosen).run(parse_plan(written.text, [t.name for t in chosen]))
    except HalfbyteError as e:
        e.read = written.prompt_tokens + getattr(getattr(e, "trace", None), "prompt_tokens", 0)  # type: ignore[attr-defined]
        raise
    trace = result.trace
    return (
        result.answer,
        written.prompt_tokens + trace.prompt_tokens,
        written.completion_tokens + trace.completion_tokens,
    )


async def run(model: Model | None, name: str, count: int, verbose: bool) -> None:
    await card_example(RecordedModel(), "recorded answers")  # type: ignore[arg-type]
    await parallel()
    await overhead()
    parsing()
    mutated()
    if model:
        with contextlib.suppress(HalfbyteError):
            await card_example(model, name)
        questions = WORLD["questions"]
        step = max(1, len(questions) // count)
        await plans_or_react(model, questions[::step][:count], verbose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--questions", type=int, default=len(WORLD["questions"]))
    parser.add_argument("--show", action="store_true", help="also print every answer")
    args = parser.parse_args()
    model: Model | None = None
    if args.model:
        from halfbyte import LLM
        from halfbyte.rewoo.completion import LocalModel

        model = LocalModel(LLM(args.model))
    asyncio.run(run(model, args.model or "", args.questions, args.show))


if __name__ == "__main__":
    main()
