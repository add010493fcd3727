"""How much is done for a model's quality: named recipes of the same few steps.

On SmolLM2-135M each step after `rtn` pays for itself; what did not pay (calibrating on quantized outputs without aiming
at the float model's, or in place of the float model's, refitting scales in closed form, coordinate descent after GPTQ,
weighting tokens by their Fisher information or by how large their hidden states are, choosing how far to follow by
calibration samples that were held out: they are of the same text, and say all the way) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which steps are taken.

    scale: AWQ's search. clip: narrower ranges. compensate: GPTQ's rounding. follow: each layer makes up for a part of
    what the quantized layers before it lost. tune: passes over the samples in which all scales and norms learn together
    from the float model's predictions.
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
