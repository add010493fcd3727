"""Speculation without a draft model: what followed the last words before is guessed to follow again.

Prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding). A guess is checked by the pass that would
have computed the next token anyway. At each place the sampler draws with the number that belongs to the place, from
what the network says there; the guess stands if it is the token drawn. So the answer is the same token for token, with
or without speculation, greedy or sampled, and a guess x stands with its own probability p(x): as often as rejection
sampling (arXiv:2211.17192) would let it, for a guess that is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.engine.sequence import Sequence

LONGEST, SHORTEST = 4, 2  # words to look for, in tokens


@dataclass(slots=True)
class NgramIndex:
    """Where each run of tokens of one sequence last ended. Grows with the sequence."""

    _indexed: int = 0
    _ends: dict[tuple[int, ...], int] = field(default_factory=dict)

    def propose(self, tokens: list[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow, empty if the last ones were never there before."""
        if most <= 0:
            return []
        for end in range(self._indexed + 1, len(tokens)):  # not the last: it would find itself
            for size in range(SHORTEST, min(LONGEST, end) + 1):
                self._ends[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
        for size in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
            found = self._ends.get(tuple(tokens[-size:]))
            if found is not None:
                return tokens[found : found + most]
        return []


def guess(sequences: Iterable[Sequence], most: int) -> None:
    """Let each sequence that is about to decode guess at most so many tokens that it goes on with."""
    for sequence in sequences:
        sequence.draft = []
        if sequence.ngrams is not None and sequence.pending == 1:
            room = sequence.answer.max_tokens - sequence.answer.count - 1
            sequence.draft = sequence.ngrams.propose(sequence.token_ids, min(most, room))
