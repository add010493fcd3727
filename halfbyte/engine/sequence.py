"""One sequence of tokens on its way through the scheduler: a prompt and one answer to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halfbyte.engine.answer import Answer
    from halfbyte.engine.request import Request
    from halfbyte.engine.sampler_row import SamplerRow
    from halfbyte.engine.speculate import NgramIndex

Rank = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, the blocks that hold their keys and values, and how far these are computed."""

    request: Request
    rank: Rank  # (priority, arrival, index): the lower, the earlier served; no two are equal
    token_ids: list[int]  # prompt and answer
    answer: Answer
    row: SamplerRow
    cache_salt: bytes = b""  # what keys and values depend on besides the tokens
    may_reuse_prefix: bool = True  # False if every token of the prompt must pass through the network
    ngrams: NgramIndex | None = None  # what the draft is guessed from
    draft: list[int] = field(default_factory=list)  # tokens guessed to come next, for the pass to check
    num_computed: int = 0  # tokens whose keys and values are in the blocks
    block_table: list[int] = field(default_factory=list)  # empty if and only if it waits
    block_hashes: list[bytes] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be chosen, and the draft behind them."""
        return len(self.token_ids) + len(self.draft) - self.num_computed

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)
