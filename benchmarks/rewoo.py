"""Plans beside their claims: one JSON object a line.

    python benchmarks/rewoo.py [MODEL] [--split test|dev] [--questions N] [--show]

Without MODEL: the card's example plan end to end (search results and pages recorded in data/, served on loopback and
scraped through the guard), parallel steps, overhead, parsing, mutated plans.

With MODEL, whatever halfbyte runs: also plans against ReAct in a closed world (data/rewoo_world.json: documents about
people, companies and towns that are made up; 40 test questions of 4 kinds, and 16 others that the set-up was tuned on),
with the same model, tools, worked examples and kind of grammar for both; see rewoo_closed_world.py, rewoo_react.py. An
answer is correct if it names the right thing and no other of that world. Tokens are all that the model reads and writes
for a question, the planner's prompt and the tools' included, the mean over questions.
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

from rewoo_closed_world import METHODS, Together, compare
from rewoo_world import DATA, questions

from halfbyte.errors import HalfbyteError, PlanError
from halfbyte.rewoo import Executor, Limits, parse_plan, tool, tools
from halfbyte.rewoo.completion import Completion, LocalModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte import LLM
    from halfbyte.rewoo.completion import Model

CARD_PLAN = (DATA / "rewoo_card_plan.txt").read_text("utf-8")
CARD_TOOLS = ("DuckDuckGo", "TextScraper", "HyperlinkExtractor", "KnowledgeModel")


def show(**figures: Any) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)


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
    await asyncio.sleep(float(text.split(maxsplit=1)[0]))
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
    wall, cpu = [], []  # beside other programs the first is longer
    for _ in range(20):
        start, start_cpu = time.perf_counter(), time.process_time()
        parse_plan(text, {"A"})
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - start_cpu) * 1e3)
    show(benchmark="parse 1,000 steps", ms_median=round(statistics.median(wall), 2),
         ms_cpu_median=round(statistics.median(cpu), 2), limit=50)  # fmt: skip


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
            head, tail = text[:at], text[at:]
            scrap = rng.choice(scraps)
            text = rng.choice(
                (head + tail[9:], head + scrap + tail, text[:end] + tail[:40] + text[end:], text[: at + 9])
            )
        try:
            parse_plan(text, CARD_TOOLS)
            parsed += 1
        except PlanError as e:
            refused += bool(e.line >= 1 and e.column >= 1)
        except Exception:
            other += 1
    show(benchmark="10,000 mutated plans", parsed=parsed, refused_with_a_position=refused, other=other)


async def run(llm: LLM | None, args: argparse.Namespace) -> None:
    if not args.only_world:
        await card_example(RecordedModel(), "recorded answers")  # type: ignore[arg-type]
        await parallel()
        await overhead()
        parsing()
        mutated()
    if llm:
        if not args.only_world:
            with contextlib.suppress(HalfbyteError):
                await card_example(LocalModel(llm), args.model)
        asked = questions(args.split, args.questions)
        await compare(Together(llm, args.at_once), asked, args.methods, show, args.show)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="questions to measure or to tune on")
    parser.add_argument("--questions", type=int, metavar="N", help="only N of them, of all kinds in turn")
    parser.add_argument("--only-world", action="store_true", help="leave out what needs no model")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--at-once", type=int, default=16, metavar="N", help="questions that are answered together")
    parser.add_argument("--show", action="store_true", help="also print every answer and how it came about")
    args = parser.parse_args()
    llm = None
    if args.model:
        from halfbyte import LLM

        llm = LLM(args.model)
    asyncio.run(run(llm, args))


if __name__ == "__main__":
    main()
