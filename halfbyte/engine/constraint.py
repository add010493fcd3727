"""Constrained decoding: only tokens that a JSON schema, a regular expression, a choice or a grammar allows.

The grammars are llguidance's: it reads the tokenizer, compiles a grammar in milliseconds and says before each step
which tokens may follow. An end token is among them only where the grammar is satisfied, and once nothing can follow,
the answer ends by itself.

On one thread of a busy 2-core AVX2 machine, with SmolLM2's 49152 tokens, a call of 60 tokens under the JSON schema of
two functions took 140 µs a token, the mask applied (300 at most), and 80 under the same as Lark; a schema compiles in
3 ms. Most of it is llguidance's search within strings, which an answer on the CPU is spared nearly always (see
host_sampler): what a constraint adds there, benchmarks/cpu_serving.py measures: 27 to 118 µs a token, and 227 to 254
for drawn answers under a grammar that they leave with nearly every token. xgrammar 0.2.8 took 210 to 290 µs a token
(1250 at most) in the same runs as the 140, and 2.7 s to compile the schema.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from halfbyte.errors import GenerationError, RequestError

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.sampling_params import SamplingParams

KEPT = 64  # compiled constraints to keep
# Between the parts of a JSON answer: nothing, one space, or a new line and its indent. Without an end to it a model
# may go on with white space until its tokens run out.
JSON_SPACE = r"( |\n[ \t]{0,24})?"


class Constraint:
    """One sequence's place in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = np.zeros(-(-vocabulary // 32) * 4, dtype=np.uint8)  # llguidance writes words of 32
        self._place: int = self._bits.ctypes.data
        self._is_ahead = False

    def allowed(self) -> int:
        """Where a bit for each token says whether it may come next: uint32 words, the first token the lowest bit.

        They stay until the next call of this, or of `forbidden`.
        """
        self._stay()
        self._matcher.unsafe_compute_mask_ptr(self._place, self._bits.nbytes)
        self._check()
        return self._place

    def forbidden(self) -> np.ndarray:
        """1 for each token that may not come next, 0 for the others, of which there is one at least: uint8 [V]."""
        self.allowed()
        return np.unpackbits(~self._bits, count=self._vocabulary, bitorder="little")

    def takes(self, token: int) -> bool:
        """Whether this token may come next, without looking at the others. It may say no to an end token wrongly.

        It is taken to be accepted next: to go on with it is most of the work of looking.
        """
        self._stay()
        self._is_ahead = bool(self._matcher.try_consume_tokens([token]) == 1)
        return self._is_ahead

    def accept(self, token: int) -> None:
        """Go on with a token that was allowed."""
        if self._is_ahead:
            self._is_ahead = False
        elif not self._matcher.consume_token(token):
            self._check()

    def _stay(self) -> None:
        """Take back what was taken and not accepted."""
        if self._is_ahead:
            self._is_ahead = False
            self._matcher.rollback(1)

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationError(f"the constraint cannot be followed: {_brief(self._matcher.get_error())}")


class Constraints:
    """Compiles constraints for one tokenizer, which it reads when the first is asked for."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        """vocabulary: the number of logits."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._vocabulary_trie: Any = None
        self._compiled: OrderedDict[object, Any] = OrderedDict()

    def start(self, params: SamplingParams) -> Constraint | None:
        """A new sequence's constraint, None if it is free. Raises RequestError for what cannot be compiled."""
        spec = params.constraint
        return None if spec is None else Constraint(self._matcher(spec).deep_copy(), self._vocabulary)

    def check(self, params: SamplingParams) -> None:
        """Raise RequestError for what cannot be compiled."""
        if params.constraint is not None:
            self._matcher(params.constraint)

    def _matcher(self, spec: tuple[str, str | tuple[str, ...]]) -> Any:
        if spec not in self._compiled:
            self._compiled[spec] = self._compile(spec)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(spec)
        return self._compiled[spec]

    def _compile(self, spec: tuple[str, str | tuple[str, ...]]) -> Any:
        from llguidance import LLMatcher  # noqa: PLC0415  only where it is used

        if self._vocabulary_trie is None:
            self._vocabulary_trie = self._read_tokenizer()
        try:
            matcher = LLMatcher(self._vocabulary_trie, _grammar(*spec), log_level=0)
            problem = matcher.get_error() or _why_hopeless(matcher.deep_copy())
        except (ValueError, RuntimeError) as error:
            problem = str(error)
        if problem:
            raise RequestError(f"{spec[0]} cannot be used to constrain an answer: {_brief(problem)}")
        return matcher

    def _read_tokenizer(self) -> Any:
        from llguidance import LLTokenizer  # noqa: PLC0415  only where it is used

        ends = sorted(self._tokenizer.eos_token_ids)
        try:
            return LLTokenizer(self._tokenizer.backend.to_str(), n_vocab=self._vocabulary, eos_token=ends or None)
        except (ValueError, RuntimeError) as error:
            raise RequestError(f"this tokenizer cannot be used to constrain answers: {_brief(str(error))}") from error


def _grammar(kind: str, value: str | tuple[str, ...]) -> str:
    """A constraint in llguidance's own form."""
    from llguidance import LLMatcher, grammar_from  # noqa: PLC0415  only where it is used

    if kind == "choice":
        return str(
            LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(v, ensure_ascii=False) for v in value))
        )
    assert isinstance(value, str)
    if kind == "json_schema":
        return str(LLMatcher.grammar_from_json_schema(value, defaults={"whitespace_pattern": JSON_SPACE}))
    if kind == "regex":
        return str(LLMatcher.grammar_from_regex(value))
    return str(grammar_from("gbnf" if "::=" in value else "lark", value))


def _why_hopeless(matcher: Any) -> str:
    """Why no answer can satisfy a grammar, as far as its beginning shows; nothing if that is not seen.

    A rule that is always followed by itself is taken by the compiler, and fails once an answer is to begin.
    """
    matcher.compute_bitmask()
    if not matcher.is_error():
        forced = matcher.compute_ff_tokens()
        if forced:
            matcher.consume_token(forced[0])
    if not matcher.is_error():
        return ""
    found = matcher.get_error()
    return f"no finite answer satisfies it, perhaps because a rule or $ref always needs itself again ({found})"


def _brief(message: str) -> str:
    """llguidance's messages show the state of its parser after their first lines."""
    return " ".join(message.split())[:300]
