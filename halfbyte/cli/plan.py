"""`halfbyte plan`: a plan is written, shown, and run if you agree."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfbyte.cli.choices import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.rewoo.completion import Model
    from halfbyte.rewoo.executor import Result
    from halfbyte.rewoo.plan import Plan
    from halfbyte.rewoo.tool import Tool
    from halfbyte.rewoo.trace import StepTrace, Trace

MOST_TOKENS = 768  # of a plan, and of an answer made of all the evidence
TOOLS = ("DuckDuckGo", "TextScraper", "HyperlinkExtractor", "KnowledgeModel", "Calculator")


Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What is to be answered.", show_default=False)]
EndpointUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Or an OpenAI-compatible server's (up to /v1).", show_default=False)
]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="FILE", help="Run the plan in this file.", show_default=False)
]


def plan(
    question: Question,
    tools: Annotated[
        str, typer.Option("--tools", metavar="NAME,...", help=f"Tools that it may call: {', '.join(TOOLS)}.")
    ] = ",".join(TOOLS),
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The model that plans and answers.", show_default=False),
    ] = None,
    endpoint: EndpointUrl = None,
    endpoint_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model's name there; the first that it lists.", show_default=False),
    ] = None,
    plan_file: PlanFile = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on from a trace: what was found is not asked again.", show_default=False),
    ] = None,
    on_failure: Annotated[
        Failure, typer.Option(help="When a step fails for good: stop, state the gap, or plan once more.")
    ] = Failure.STOP,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="Most seconds that the run may take.")] = 600.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Run without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole trace as JSON.")] = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the trace in this file.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the run as SVG into this file.", show_default=False)
    ] = None,
) -> None:
    """Plan with tools, then run the plan: every step starts as soon as the evidence that it needs is there.

    The plan is checked and shown first, and nothing runs before you agree. API keys come from HALFBYTE_API_KEY. Pages
    are fetched from the public internet only. The answer goes to stdout, what it rests on to stderr.

    $ halfbyte plan "Who wrote Solaris?" --tools DuckDuckGo,KnowledgeModel --endpoint http://localhost:8000/v1
    $ halfbyte plan "How much is 17 % of 2340?" --tools Calculator --model out/my-awq --yes
    """
    from halfbyte.cli.console import notes

    if model and endpoint:
        raise typer.BadParameter("give --model or --endpoint, not both", param_hint="--endpoint")
    earlier = read_trace(resume) if resume else None
    text = read_file(plan_file) if plan_file else earlier.plan if earlier else None
    chosen = names(tools)
    if not (model or endpoint) and (text is None or "KnowledgeModel" in chosen or on_failure is Failure.REPLAN):
        raise typer.BadParameter("a model is needed: give --model or --endpoint", param_hint="--model")
    answers = load_model(model, endpoint, endpoint_model)
    table = [make_tool(name, answers) for name in chosen]
    again = on_failure is Failure.REPLAN
    parsed = asyncio.run(write_plan(question, table, answers, again)) if text is None else read(text, table)
    agree(parsed, yes)
    result = run_plan(parsed, question, table, answers, on_failure, seconds, earlier, (trace, picture), yes)
    if as_json:
        typer.echo(result.trace.to_json())
    else:
        show_result(result)
    if result.gaps:
        notes().print(f"{len(result.gaps)} step{'s' * (len(result.gaps) > 1)} without evidence", style="yellow")


def read_file(path: Path) -> str:
    """A UTF-8 file. Raises RequestError if it is not, OSError if it cannot be read."""
    from halfbyte.errors import RequestError

    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as e:
        raise RequestError(f"{path} is not UTF-8: byte {e.start} is 0x{e.object[e.start]:02x}") from e


def names(tools: str) -> list[str]:
    """The tools of the option, in their proper spelling. Raises BadParameter for one that is not there."""
    known = {name.lower(): name for name in TOOLS}
    wanted = [name.strip() for name in tools.split(",") if name.strip()]
    for name in wanted:
        if name.lower() not in known:
            raise typer.BadParameter(f"there is no tool {name!r}; there are {', '.join(TOOLS)}", param_hint="--tools")
    if not wanted:
        raise typer.BadParameter("a plan needs at least one tool", param_hint="--tools")
    return list(dict.fromkeys(known[name.lower()] for name in wanted))


def load_model(model: str | None, endpoint: str | None, endpoint_model: str | None) -> Model | None:
    """What answers, if anything was named."""
    import os

    from halfbyte.rewoo.completion import Endpoint, LocalModel

    if endpoint:
        return Endpoint(endpoint, endpoint_model, api_key=os.environ.get("HALFBYTE_API_KEY"))
    if model:
        from halfbyte.engine.llm import LLM

        return LocalModel(LLM(model))
    return None


def make_tool(name: str, model: Model | None) -> Tool:
    """A tool by name."""
    from halfbyte.rewoo import tools

    if name == "KnowledgeModel":
        assert model
        return tools.knowledge_model(model)
    made: dict[str, Any] = {
        "DuckDuckGo": tools.duckduckgo,
        "TextScraper": tools.text_scraper,
        "HyperlinkExtractor": lambda: tools.hyperlink_extractor,
        "Calculator": lambda: tools.calculator,
    }
    tool: Tool = made[name]()
    return tool


def read_trace(path: Path) -> Trace:
    """The trace in a file. Raises TraceError, naming the file, if it is none."""
    from halfbyte.errors import TraceError
    from halfbyte.rewoo.trace import Trace

    try:
        return Trace.from_json(read_file(path))
    except TraceError as error:
        raise TraceError(f"--resume {path}: {error}") from None


async def write_plan(question: str, tools: list[Tool], model: Model | None, again: bool) -> Plan:
    """Have the model write a plan; the grammar keeps it to the form where the model's engine knows grammars.

    again: whether a plan that is wrong is shown to the model once, for a better one.
    """
    from halfbyte.errors import PlanError
    from halfbyte.rewoo.grammar import plan_grammar
    from halfbyte.rewoo.planner import planner_prompt, repair_prompt

    assert model
    prompt, grammar = planner_prompt(tools, question), plan_grammar(tools)
    answer = await model.complete(prompt, max_tokens=MOST_TOKENS, grammar=grammar)
    try:
        return read(answer.text, tools)
    except PlanError as e:
        if not again:
            raise
        prompt = repair_prompt(prompt, answer.text, [str(problem) for problem in e.problems])
    return read((await model.complete(prompt, max_tokens=MOST_TOKENS, grammar=grammar)).text, tools)


def read(text: str, tools: list[Tool]) -> Plan:
    """Parse a plan; shows it where it is wrong, for the error alone names only lines."""
    from halfbyte.cli.console import notes
    from halfbyte.errors import PlanError
    from halfbyte.rewoo.parser import parse_plan

    try:
        return parse_plan(text, tools)
    except PlanError:
        notes().print(text.strip(), style="dim", markup=False)
        raise


def agree(plan: Plan, yes: bool) -> None:
    """Show the plan, and what was put right in it, on stderr; ask whether to run it. Raises typer.Exit if not."""
    from halfbyte.cli.console import notes

    notes().print(plan.text.strip(), markup=False)
    for warning in plan.warnings:
        notes().print(f"note: {warning}", style="yellow", markup=False)
    if not yes and not typer.confirm("Run it?", default=False, err=True):
        raise typer.Exit


def run_plan(
    plan: Plan,
    question: str,
    tools: list[Tool],
    model: Model | None,
    on_failure: Failure,
    seconds: float,
    earlier: Trace | None,
    files: tuple[Path | None, Path | None],
    yes: bool,
) -> Result:
    """Run it with its steps shown live; the trace is kept in files (JSON, SVG) even if it fails or is interrupted."""
    from halfbyte.rewoo.executor import Executor
    from halfbyte.rewoo.grammar import plan_grammar
    from halfbyte.rewoo.limits import Limits
    from halfbyte.rewoo.tool import Evidence
    from halfbyte.rewoo.trace import Trace

    async def ask(prompt: str, grammar: str | None = None) -> Evidence:
        assert model
        answer = await model.complete(prompt, max_tokens=MOST_TOKENS, grammar=grammar)
        return Evidence(answer.text, answer.prompt_tokens, answer.completion_tokens)

    async def ask_for_another(prompt: str) -> Evidence:
        answer = await ask(prompt, plan_grammar(tools))
        with progress.hidden():
            agree(read(answer.text, tools), yes)
        return answer

    trace = Trace()
    with Progress() as progress:
        executor = Executor(
            tools,
            limits=Limits(seconds=seconds),
            on_failure=on_failure.value,
            planner=ask_for_another if model else None,
            solver=ask if model and plan.answer is None else None,
            observe=progress.show,
        )
        try:
            return asyncio.run(executor.run(plan, question=question, resume=earlier, trace=trace))
        finally:
            keep(trace, *files)


class Progress:
    """The table of steps, live on stderr if that is a terminal."""

    def __init__(self) -> None:
        from rich.live import Live

        from halfbyte.cli.console import notes

        self._steps: dict[int, StepTrace] = {}
        console = notes()
        self._live = Live(console=console, transient=True, refresh_per_second=8) if console.is_terminal else None

    def show(self, step: StepTrace) -> None:
        """Take note of a step that has changed."""
        from halfbyte.rewoo.trace_table import steps_table

        self._steps[step.id] = step
        if self._live:
            self._live.update(steps_table([self._steps[i] for i in sorted(self._steps)]))

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """While something else is shown; the steps so far are then those of an earlier plan."""
        self.__exit__()
        yield
        self._steps.clear()
        self.__enter__()

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()


def keep(trace: Trace, json_file: Path | None, svg_file: Path | None) -> None:
    """Write a trace where it is wanted."""
    from halfbyte.rewoo.trace_picture import trace_picture

    if json_file:
        json_file.write_text(trace.to_json(), "utf-8")
    if svg_file:
        svg_file.write_text(trace_picture(trace), "utf-8")


def show_result(result: Result) -> None:
    """The answer to stdout; the evidence and its sources to stderr."""
    from halfbyte.cli.console import notes
    from halfbyte.rewoo.trace_table import trace_table

    notes().print(trace_table(result.trace))
    for source in result.sources:
        notes().print(f"source: {source}", style="dim", markup=False)
    typer.echo(result.answer)
