"""How much is done for a model's quality: named recipes of the same few steps.

On SmolLM2-135M each step after `rtn` pays for itself; what did not pay (calibrating on quantized outputs without aiming
at the float model's, refitting scales in closed form, coordinate descent after GPTQ, weighting tokens by their Fisher
information) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which steps are taken.

    scale: AWQ's search. clip: narrower ranges. compensate: GPTQ's rounding. follow: each layer is calibrated on the
    outputs of the quantized layers before it and aims at the float model's. tune: passes over the samples in which
    all scales and norms learn together from the float model's predictions.
    """

    scale: bool = False
    clip: bool = False
    compensate: bool = False
    follow: bool = False
    tune: int = 0


RECIPES: dict[str, Recipe] = {
    "rtn": Recipe(),
    "awq": Recipe(scale=True, clip=True),
    "gptq": Recipe(compensate=True),
    "fast": Recipe(scale=True, clip=True, compensate=True),
    "default": Recipe(scale=True, clip=True, compensate=True, follow=True),
    "best": Recipe(scale=True, clip=True, compensate=True, follow=True, tune=2),
}
