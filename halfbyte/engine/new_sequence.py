"""What an answer begins with: its place in the queue, its text, its sampler's row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.engine.answer import Answer
from halfbyte.engine.bad_words import tokens_of_words
from halfbyte.engine.sampler_row import SamplerRow
from halfbyte.engine.sequence import Sequence
from halfbyte.engine.speculate import NgramIndex

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.constraint import Constraint
    from halfbyte.engine.request import Request


def new_sequence(
    request: Request, index: int, tokenizer: Tokenizer, context: int, constraint: Constraint | None, *,
    salt: bytes, speculates: bool,
) -> Sequence:  # fmt: skip
    """One of a request's answers. context: the most tokens of it and the prompt. salt: see Runner.salt."""
    params, prompt = request.params, request.prompt_token_ids
    answer = Answer(params, tokenizer, prompt, context - len(prompt), index, constraint)
    row = SamplerRow(
        params, request.seed + index, prompt,
        ends=(*answer.ends, *params.stop_ids),
        bad_words=tokens_of_words(params.bad_words or (), tokenizer),
        constraint=constraint,
    )  # fmt: skip
    sequence = Sequence(request, (request.priority, request.arrival, index), prompt.copy(), answer, row)
    sequence.cache_salt = salt + (b"/%d" % request.adapter.number if request.adapter else b"")
    sequence.may_reuse_prefix = params.prompt_logprobs is None and request.pooling != "mean"
    if speculates and constraint is None and not request.pooling:
        sequence.ngrams = NgramIndex()
    more = (params.logprobs, params.prompt_logprobs, params.best_of, request.pooling, sequence.ngrams)
    sequence.is_plain = all(x is None for x in more)
    return sequence
