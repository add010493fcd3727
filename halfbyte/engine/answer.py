"""The text of one answer in the making: when it ends, and which of it may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.engine.outputs import Delta
from halfbyte.engine.stop_strings import StopStrings

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.constraint import Constraint
    from halfbyte.engine.outputs import FinishReason
    from halfbyte.engine.sampling_params import SamplingParams


class Answer:
    """Fed one token after another; knows nothing of blocks or batches."""

    def __init__(
        self,
        params: SamplingParams,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        room: int,
        index: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        """room: the most tokens that the context leaves for it. index: which of the request's answers it is."""
        self.params = params
        self.index = index
        self.count = 0
        self.max_tokens = room if params.max_tokens is None else min(room, params.max_tokens)
        self.ends = frozenset() if params.ignore_eos else tokenizer.eos_token_ids
        self._constraint = constraint
        skip = params.skip_special_tokens
        self._decoder = tokenizer.stream(skip_special_tokens=skip)
        self._stops = StopStrings(params.stop_strings, include=params.include_stop_str_in_output)
        self._before = tokenizer.decode(prompt_token_ids, skip_special_tokens=skip) if params.echo else ""
        self._finals = self.ends.union(params.stop_ids)
        self._is_simple = constraint is None and not params.stop_strings  # only its number and the token can end it

    def accept(self, token: int) -> Delta:
        """Take the next token. The Delta says whether it was the last."""
        self.count += 1
        if self._is_simple and self.count < self.max_tokens and token not in self._finals and not self._before:
            return Delta(self._decoder.push(token), token, None, None, self.index)
        text, finish, reason = self._read(token)
        text, self._before = self._before + text, ""
        return Delta(text, token, finish, reason, self.index)

    def _read(self, token: int) -> tuple[str, FinishReason | None, int | str | None]:
        finish, reason = self._ended_by(token)
        shown = finish != "stop" or self.params.include_stop_str_in_output
        if self._constraint is not None:
            self._constraint.accept(token)
            if finish != "stop" and self._constraint.finished:  # nothing can follow: no need to wait for an end token
                finish = "stop"
        text = self._decoder.push(token) if shown else ""
        if finish:
            text += self._decoder.flush()
        if self.count > self.params.min_tokens:
            text, found = self._stops.push(text)
            if found is not None:
                return text, "stop", found
            if finish:
                text += self._stops.flush()
        return text, finish, reason

    def _ended_by(self, token: int) -> tuple[FinishReason | None, int | None]:
        if token in self.ends:
            return "stop", None
        if token in self.params.stop_ids:
            return "stop", token
        return ("length" if self.count >= self.max_tokens else None), None
