"""`halfbyte bench`: how fast a model is served here, or by a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfbyte.cli import sampling_options as options
from halfbyte.cli.choices import Compute
from halfbyte.cli.engine_options import Batched, Cache, CacheDtype, CacheKind, Deterministic, Ranks, Seqs

if TYPE_CHECKING:
    from halfbyte.evaluate.serving import Report, Timing

Count = Annotated[int, typer.Option("--num-prompts", min=1, metavar="N", help="Requests to send.")]
InputLength = Annotated[int, typer.Option("--input-len", min=1, metavar="N", help="Tokens of each prompt, random.")]
OutputLength = Annotated[int, typer.Option("--output-len", min=1, metavar="N", help="Tokens of each answer.")]
Guesses = Annotated[int, typer.Option("--speculative-tokens", min=0, metavar="N", help="Guess up to N tokens ahead.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")]
Picture = Annotated[
    Path | None,
    typer.Option(
        "--picture",
        metavar="FILE.png",
        help="Draw how the times are spread; needs halfbyte[bench].",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed sends the same prompts.")]


def throughput(
    model: options.Model,
    num_prompts: Count = 64,
    input_len: InputLength = 128,
    output_len: OutputLength = 64,
    kv_cache: Cache = None,
    kv_cache_dtype: CacheDtype = CacheKind.AUTO,
    max_num_seqs: Seqs = None,
    max_num_batched_tokens: Batched = None,
    speculative_tokens: Guesses = 0,
    tensor_parallel_size: Ranks = 1,
    deterministic: Deterministic = False,
    compute: options.Compute = Compute.AUTO,
    seed: Seed = 0,
    as_json: Json = False,
    picture: Picture = None,
) -> None:
    """Answer many prompts at once, without a server between.

    $ halfbyte bench throughput out/my-awq --num-prompts 64 --input-len 128 --output-len 64
    """
    from halfbyte.engine.llm import LLM
    from halfbyte.evaluate.load import all_at_once, random_prompts

    llm = LLM(
        model,
        compute=compute.value,
        kv_cache=kv_cache,
        kv_cache_dtype=kv_cache_dtype.value,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        speculative_tokens=speculative_tokens,
        tensor_parallel_size=tensor_parallel_size,
        deterministic=deterministic,
    )
    vocabulary = llm.network.config.vocab_size
    all_at_once(llm, random_prompts(1, input_len, vocabulary, seed + 1), 2)  # a first pass is slower
    timings, seconds = all_at_once(llm, random_prompts(num_prompts, input_len, vocabulary, seed), output_len)
    more = {"speculation_acceptance_rate": llm.engine.stats.acceptance_rate} if speculative_tokens else {}
    show("throughput", model, timings, seconds, as_json, picture, more)


def latency(
    model: options.Model,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Requests at once.")] = 1,
    input_len: InputLength = 32,
    output_len: OutputLength = 64,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How many times.")] = 5,
    tensor_parallel_size: Ranks = 1,
    deterministic: Deterministic = False,
    compute: options.Compute = Compute.AUTO,
    seed: Seed = 0,
    as_json: Json = False,
    picture: Picture = None,
) -> None:
    """Answer one small batch, again and again.

    $ halfbyte bench latency out/my-awq --batch-size 1
    """
    from halfbyte.engine.llm import LLM
    from halfbyte.evaluate.load import all_at_once, random_prompts

    llm = LLM(model, compute=compute.value, tensor_parallel_size=tensor_parallel_size, deterministic=deterministic)
    vocabulary = llm.network.config.vocab_size
    timings: list[Timing] = []
    seconds = 0.0
    for number in range(rounds + 1):
        prompts = random_prompts(batch_size, input_len, vocabulary, seed + number)
        found, took = all_at_once(llm, prompts, output_len)
        if number:  # the first round warms up
            timings, seconds = timings + found, seconds + took
    show("latency", model, timings, seconds, as_json, picture)


def serve(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="The model to serve here; none with --url.", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible server, up to and with /v1.", show_default=False),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its model.", show_default="the first that it lists")
    ] = None,
    num_prompts: Count = 64,
    input_len: InputLength = 128,
    output_len: OutputLength = 64,
    request_rate: Annotated[
        float, typer.Option(min=0.001, metavar="R", help="Requests a second, at random moments; inf: all at once.")
    ] = float("inf"),
    max_concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Most requests under way.")] = 256,
    vocabulary: Annotated[int, typer.Option(min=1, metavar="N", help="Prompts are made of token ids under N.")] = 1000,
    tensor_parallel_size: Ranks = 1,
    deterministic: Deterministic = False,
    compute: options.Compute = Compute.AUTO,
    seed: Seed = 0,
    as_json: Json = False,
    picture: Picture = None,
) -> None:
    """Send requests at a rate, to an engine in its own process or to a server.

    $ halfbyte bench serve out/my-awq --request-rate 4
    $ halfbyte bench serve --url http://127.0.0.1:8000/v1 --request-rate 4
    """
    if (model is None) == (url is None):
        raise typer.BadParameter("give either a MODEL or --url")
    import asyncio

    from halfbyte.evaluate.load import random_prompts

    async def run() -> tuple[list[Timing], float]:
        from halfbyte.engine.async_engine import AsyncEngine
        from halfbyte.evaluate.load import ask_engine, ask_server, at_a_rate, first_model

        prompts = random_prompts(num_prompts, input_len, vocabulary, seed)
        if url is None:
            assert model is not None
            settings: dict[str, Any] = {
                "compute": compute.value, "tensor_parallel_size": tensor_parallel_size, "deterministic": deterministic,
            }  # fmt: skip
            async with AsyncEngine(model, max_requests=max_concurrency + 1, **settings) as engine:
                return await at_a_rate(ask_engine(engine, output_len), prompts, request_rate, max_concurrency, seed)
        from halfbyte.errors import IntegrationError

        try:
            import httpx
        except ImportError:
            raise IntegrationError("--url needs httpx: pip install 'halfbyte[bench]'") from None
        async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=max_concurrency)) as client:
            name = served_model or await first_model(client, url.rstrip("/"))
            ask = ask_server(client, url.rstrip("/"), name, output_len)
            return await at_a_rate(ask, prompts, request_rate, max_concurrency, seed)

    timings, seconds = asyncio.run(run())
    show("serve", model or url or "", timings, seconds, as_json, picture)


def show(
    kind: str,
    target: str,
    timings: list[Timing],
    seconds: float,
    as_json: bool,
    picture: Path | None,
    more: dict[str, Any] | None = None,
) -> None:
    """Print a report, then draw it: a picture that fails costs nobody the figures.

    Raises EvaluationError if every request failed.
    """
    from halfbyte.cli.console import print_json
    from halfbyte.errors import EvaluationError
    from halfbyte.evaluate.serving import report

    found = report(timings, seconds)
    errors = [timing.error for timing in timings if timing.error is not None]
    if found.failed == found.requests:
        raise EvaluationError(f"every request failed; the first: {errors[0]}")
    if as_json:
        print_json({"benchmark": kind, "target": target, **found.as_dict(), **(more or {})})
    else:
        print_tables(found, more or {})
    if picture is not None:
        from halfbyte.evaluate.picture import draw

        draw(timings, picture, f"{kind} of {target}: {found.requests} requests")


def print_tables(found: Report, more: dict[str, Any]) -> None:
    """To stdout."""
    from rich.console import Console
    from rich.table import Table

    figures = found.as_dict() | more
    rates = Table(show_header=False, box=None)
    for name, value in figures.items():
        if value is not None and not isinstance(value, dict):
            rates.add_row(name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    times = Table("ms", "mean", "median", "P99", box=None)
    for name, figure in found.times.items():
        times.add_row(name.upper(), *(f"{figure[part]:,.2f}" for part in ("mean", "median", "p99")))
    console = Console()
    console.print(rates)
    console.print(times)
