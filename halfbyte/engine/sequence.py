"""One answer in the making: its tokens, when it ends, and which of its text may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.engine.outputs import Delta, FinishReason
from halfbyte.engine.sampler import SamplerRow
from halfbyte.engine.stop_strings import StopStrings

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.constraint import Constraint
    from halfbyte.engine.sampling_params import SamplingParams


class Sequence:
    """Fed one token after another by whatever runs the network; knows nothing of caches or batches."""

    def __init__(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        tokenizer: Tokenizer,
        context: int,
        seed: int,
        constraint: Constraint | None = None,
    ) -> None:
        """context: the most tokens, with the prompt's, that the sequence may have. constraint: this sequence's own."""
        self.params = params
        self.token_ids: list[int] = []
        self.row = SamplerRow(params, seed, prompt_token_ids)
        self.row.constraint = self._constraint = constraint
        room = context - len(prompt_token_ids)
        self.max_tokens = room if params.max_tokens is None else min(room, params.max_tokens)
        self._eos = frozenset() if params.ignore_eos else tokenizer.eos_token_ids
        self._decoder = tokenizer.stream(skip_special_tokens=params.skip_special_tokens)
        self._stops = StopStrings(params.stop_strings, include=params.include_stop_str_in_output)
        self._ban()

    def accept(self, token: int) -> Delta:
        """Take the next token. The Delta says whether it was the last."""
        self.token_ids.append(token)
        self.row.record(token)
        self._ban()
        finish, reason = self._ended_by(token)
        shown = finish != "stop" or self.params.include_stop_str_in_output
        if self._constraint is not None:
            self._constraint.accept(token)
            if finish != "stop" and self._constraint.finished:  # nothing can follow: no need to wait for an end token
                finish = "stop"
        text = self._decoder.push(token) if shown else ""
        if finish:
            text += self._decoder.flush()
        if len(self.token_ids) > self.params.min_tokens:
            text, found = self._stops.push(text)
            if found is not None:
                return Delta(text, token, "stop", found)
            if finish:
                text += self._stops.flush()
        return Delta(text, token, finish, reason)

    def _ended_by(self, token: int) -> tuple[FinishReason | None, int | None]:
        if token in self._eos:
            return "stop", None
        if token in self.params.stop_ids:
            return "stop", token
        return ("length" if len(self.token_ids) >= self.max_tokens else None), None

    def _ban(self) -> None:
        """Nothing that would end the answer may come before min_tokens."""
        early = len(self.token_ids) < self.params.min_tokens
        self.row.banned = (*self._eos, *self.params.stop_ids) if early else ()
