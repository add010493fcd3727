"""What the sampler knows of one sequence."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from halfbyte.engine.constraint import Constraint
    from halfbyte.engine.sampler import Draw
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.errors import HalfbyteError

WordTokens = tuple[tuple[int, ...], ...]


class SamplerRow:
    """Parameters, the seed, and what of the tokens so far the parameters ask for."""

    def __init__(
        self,
        params: SamplingParams,
        seed: int,
        prompt: Sequence[int],
        *,
        ends: Iterable[int] = (),
        bad_words: WordTokens = (),
        constraint: Constraint | None = None,
    ) -> None:
        """ends: tokens that may not come before min_tokens. bad_words: token by token; the last is then banned."""
        self.params = params
        self.seed = seed % 2**64
        self.constraint = constraint
        self.answer: list[int] = []
        self.greedy = params.greedy
        # what sampler.Columns holds, gathered once
        self.numbers = (params.temperature, params.top_p, params.top_k, params.min_p, params.typical_p)
        self.way: Draw | None = None  # the sampler's, once it has looked
        self.problem: HalfbyteError | None = None  # why there is no next token, if it is not the network's fault
        self._ends = tuple(ends)
        self._bad_words = bad_words
        self._counts_tokens = bool(
            params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
        )
        others = bool(self._counts_tokens or bad_words or params.logit_bias or params.allowed_token_ids is not None)
        self._edits_always = others or constraint is not None
        self._is_only_constrained = constraint is not None and not others
        self.edits = self._edits_always or self._is_early  # whether anything but the network decides on logits
        self._place: dict[int, int] = {}  # of a token in the two arrays
        self._ids = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.float32)
        if params.repetition_penalty != 1.0:
            self._place = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
            self._ids = np.array(list(self._place), dtype=np.int64)
            self._counts = np.zeros(len(self._place), dtype=np.float32)

    @property
    def step(self) -> int:
        """How many tokens the answer has."""
        return len(self.answer)

    @property
    def _is_early(self) -> bool:
        return bool(self._ends) and self.step < self.params.min_tokens

    @property
    def is_only_constrained(self) -> bool:
        """Whether nothing but a constraint and the network decides on the next token."""
        return self._is_only_constrained and not self._is_early

    @property
    def constraint_by_bits(self) -> Constraint | None:
        """The constraint, if nothing but it and the network's logits say which tokens may come next."""
        if self._bad_words or self.params.allowed_token_ids is not None or self._is_early:
            return None
        return self.constraint

    @property
    def counted(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Distinct token ids that penalties fall on, and how often the answer has each; None without penalties."""
        used = len(self._place)
        return (self._ids[:used], self._counts[:used]) if self._counts_tokens else None

    @property
    def banned(self) -> tuple[int, ...]:
        """Tokens that may not come next."""
        return self.banned_ends + self.banned_words

    @property
    def banned_ends(self) -> tuple[int, ...]:
        """Of these, those that would end the answer before min_tokens."""
        return self._ends if self._is_early else ()

    @property
    def banned_words(self) -> tuple[int, ...]:
        """Of these, those that would complete one of bad_words."""
        return tuple(word[-1] for word in self._bad_words if self._ends_with(word[:-1]))

    def record(self, token: int) -> None:
        """Take note of a token of the answer."""
        self.answer.append(token)
        if not self.edits:
            return
        self.edits = self._edits_always or self._is_early
        if not self._counts_tokens:
            return
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = len(self._place)
            self._reserve(place + 1)
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += 1

    def after(self, tokens: Sequence[int]) -> SamplerRow:
        """The row as it will be if these tokens come next."""
        if not tokens:
            return self
        row = copy(self)
        row.answer, row._place = self.answer.copy(), self._place.copy()
        row._ids, row._counts = self._ids.copy(), self._counts.copy()
        for token in tokens:
            row.record(token)
        return row

    def _reserve(self, size: int) -> None:
        if size > len(self._ids):
            more = max(64, size)
            self._ids = np.concatenate((self._ids, np.empty(more, dtype=np.int64)))
            self._counts = np.concatenate((self._counts, np.empty(more, dtype=np.float32)))

    def _ends_with(self, tokens: tuple[int, ...]) -> bool:
        return not tokens or tuple(self.answer[-len(tokens) :]) == tokens
