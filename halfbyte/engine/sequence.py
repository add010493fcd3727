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
    ahead: int = 0  # tokens behind these that a pass computes whose outcome has not been taken note of
    unknown: int = 0  # tokens that such a pass chooses: they belong behind token_ids
    lane: int = 0  # the place of its own among all that the pass chooses
    block_table: list[int] = field(default_factory=list)  # empty if and only if it waits
    place: int = -1  # its row of BlockTables; -1 while it waits
    block_hashes: list[bytes] = field(default_factory=list)
    is_plain: bool = True  # all that is asked for is the next token, without a guess at it
    ended: bool = False

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be chosen, and the draft behind them."""
        if self.unknown and self.answer.count + self.unknown >= self.answer.max_tokens:
            return 0  # what is being chosen is the last
        return len(self.token_ids) + len(self.draft) + self.unknown - self.num_computed - self.ahead

    @property
    def next_step(self) -> int:
        """The place in the answer of the token that the pass chooses which was scheduled last."""
        return self.row.step + self.unknown - 1

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)
