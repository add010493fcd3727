"""The options that every command which answers takes, and the sampling parameters that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.choices import Compute as ComputeChoice

if TYPE_CHECKING:
    from halfbyte.engine.sampling_params import SamplingParams

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model to ask.", show_default=False)]
System = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="System text for the chat template.", show_default="the template's own"),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, metavar="N", help="Most tokens of an answer.")]
Temperature = Annotated[
    float,
    typer.Option(min=0, metavar="T", help="0 takes the likeliest token; higher flattens the distribution drawn from."),
]
TopK = Annotated[int, typer.Option(min=0, metavar="K", help="Draw among the K likeliest tokens; 0: among all.")]
TopP = Annotated[
    float, typer.Option(metavar="P", help="Draw among the likeliest tokens that reach probability P; 1: among all.")
]
RepetitionPenalty = Annotated[
    float, typer.Option(metavar="F", help="Over 1 discourages tokens that are in the prompt or answer already.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="S", help="End the answer before this text; may be given several times.", show_default=False),
]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed draws the same answer.")]
Compute = Annotated[
    ComputeChoice,
    typer.Option(
        help="auto is fast: on a CPU it rounds the activations of 4-bit layers to 8 bits, on a GPU all to float16, or "
        "bfloat16; float32 rounds nothing, on the CPU."
    ),
]


def sampling_params(
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    stop: list[str] | None,
    seed: int | None,
) -> SamplingParams:
    """Check the options together."""
    from halfbyte.engine.sampling_params import SamplingParams

    return SamplingParams(
        max_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=seed,
    )
