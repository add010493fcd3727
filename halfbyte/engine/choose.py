"""The next tokens of every sequence of a pass that has come to its end, chosen in one go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfbyte.engine.logprobs import logprobs
from halfbyte.engine.sampler import sample

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from halfbyte.engine.outputs import LogprobsOfStep
    from halfbyte.engine.sampler_row import SamplerRow
    from halfbyte.engine.scheduler import Scheduled
    from halfbyte.errors import HalfbyteError
    from halfbyte.models.network import Network


@dataclass(slots=True)
class Choice:
    """A sequence's next token, and one behind each token of its draft; None where logits were not finite."""

    tokens: list[int | None]
    problems: list[HalfbyteError | None]  # why there is none, if it is not the network's fault
    logprobs: list[LogprobsOfStep] | None


def choose(
    network: Network, hidden: torch.Tensor, items: list[tuple[Scheduled, int]], text_of: Callable[[int], str]
) -> list[Choice | None]:
    """hidden: [T, D] of the pass; items: each sequence's part, and its first row. None: not there yet, or no answer."""
    places: list[int] = []
    rows: list[SamplerRow] = []
    for item, first in items:
        if item.is_complete:
            last = first + item.count
            places += range(last - 1 - item.drafted, last)
            draft, row = item.sequence.draft, item.sequence.row
            rows += [row.after(draft[:i]) for i in range(item.drafted + 1)]
    if not rows:
        return [None] * len(items)
    logits = network.logits(hidden if len(places) == len(hidden) else hidden[places])
    wanted = [i for i, row in enumerate(rows) if row.params.logprobs is not None or row.params.best_of is not None]
    kept = logits[wanted] if wanted else None
    with network.kernels.threads(len(rows)):
        tokens = sample(logits, rows)
    steps: dict[int, LogprobsOfStep] = {}
    if kept is not None:
        most = [rows[i].params.logprobs or 0 for i in wanted]
        steps = dict(zip(wanted, logprobs(kept, [tokens[i] or 0 for i in wanted], most, text_of), strict=True))
    choices: list[Choice | None] = []
    begin = 0
    for item, _ in items:
        if not item.is_complete:
            choices.append(None)
            continue
        part = range(begin, begin + item.drafted + 1)
        begin = part.stop
        choices.append(
            Choice(
                [tokens[i] for i in part],
                [rows[i].problem for i in part],
                [steps[i] for i in part] if begin - 1 in steps else None,
            )
        )
    return choices
