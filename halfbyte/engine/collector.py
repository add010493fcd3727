"""Puts the steps of a request's answers together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halfbyte.engine.outputs import CompletionOutput, RequestOutput

if TYPE_CHECKING:
    from halfbyte.engine.outputs import Delta
    from halfbyte.engine.sampling_params import SamplingParams


@dataclass(slots=True)
class Collector:
    """One request's output so far."""

    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    _answers: dict[int, list[Delta]] = field(default_factory=dict)

    def add(self, delta: Delta) -> None:
        """Take a step."""
        self._answers.setdefault(delta.index, []).append(delta)

    @property
    def finished(self) -> bool:
        """Whether every answer has ended."""
        return len(self._answers) == self.params.drawn and all(
            steps[-1].finish_reason for steps in self._answers.values()
        )

    def output(self) -> RequestOutput:
        """What there is: of best_of answers the n of the highest cumulative log-probability, the best one first."""
        answers = [self._answer(index, steps) for index, steps in sorted(self._answers.items())]
        if self.params.best_of is not None:
            answers.sort(key=lambda answer: -(answer.cumulative_logprob or 0.0))
            answers = answers[: self.params.n]
            for index, answer in enumerate(answers):
                answer.index = index
        first = self._answers.get(0)
        prompt_logprobs = first[0].prompt_logprobs if first else None
        begun = first[0].begun if first else None
        return RequestOutput(
            self.prompt, self.prompt_token_ids, answers, self.finished, prompt_logprobs,
            num_cached_tokens=None if begun is None else begun.cached_tokens,
        )  # fmt: skip

    def _answer(self, index: int, steps: list[Delta]) -> CompletionOutput:
        text, ids = "".join(step.text for step in steps), [step.token_id for step in steps]
        last = steps[-1]
        answer = CompletionOutput(index, text, ids, last.finish_reason, last.stop_reason)
        found = [step.logprobs for step in steps if step.logprobs is not None]
        if found:
            answer.cumulative_logprob = sum(step[token].logprob for step, token in zip(found, ids, strict=True))
            answer.logprobs = None if self.params.logprobs is None else found
        return answer
