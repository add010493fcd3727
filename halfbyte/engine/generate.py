"""The loop that answers one request: read the prompt, then a token at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.engine.constraint import Constraints
from halfbyte.engine.kv_cache import SequenceCache
from halfbyte.engine.outputs import CompletionOutput, Delta
from halfbyte.engine.runner import next_logits
from halfbyte.engine.sampler import sample
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import GenerationError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.models.network import Network


class Engine:
    """Answers requests one after another."""

    def __init__(self, network: Network, tokenizer: Tokenizer, context: int) -> None:
        """context: the most tokens, prompt and answer together, of a sequence."""
        self.network = network
        self.tokenizer = tokenizer
        self.context = context
        self.constraints = Constraints(tokenizer, network.config.vocab_size)

    def stream(self, prompt_token_ids: list[int], params: SamplingParams, seed: int) -> Iterator[Delta]:
        """One answer, token by token. May be closed at any moment."""
        self.check(prompt_token_ids, params)
        return self._stream_unchecked(prompt_token_ids, params, seed)

    def complete(self, prompt_token_ids: list[int], params: SamplingParams, seed: int) -> list[CompletionOutput]:
        """All `params.n` answers; the prompt is read once. Answer i is drawn with the seed `seed + i`."""
        self.check(prompt_token_ids, params)
        cache = SequenceCache(self.network.config, self.context)
        logits = next_logits(self.network, cache, prompt_token_ids)
        outputs = []
        for index in range(params.n):
            last = index == params.n - 1
            start = (cache, logits) if last else (cache.fork(), logits.clone())
            sequence = self._sequence(prompt_token_ids, params, seed + index)
            outputs.append(collect(index, self._decode(sequence, *start)))
        return outputs

    def check(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        """Raise RequestError unless this can be a prompt, and the answer kept to what `params` say."""
        self.constraints.check(params)
        count, vocabulary = len(prompt_token_ids), self.network.config.vocab_size
        if count == 0:
            raise RequestError("the prompt is empty: give at least one token")
        if count >= self.context:
            raise RequestError(
                f"the prompt has {count} tokens and the context is {self.context}, prompt and answer together: "
                f"at most {self.context - 1} tokens of prompt leave room for an answer"
            )
        for place, token in enumerate(prompt_token_ids):
            if not 0 <= token < vocabulary:
                raise RequestError(f"token {place} of the prompt is {token}; ids are 0 to {vocabulary - 1}")

    def _stream_unchecked(self, prompt_token_ids: list[int], params: SamplingParams, seed: int) -> Iterator[Delta]:
        cache = SequenceCache(self.network.config, self.context)
        sequence = self._sequence(prompt_token_ids, params, seed)
        yield from self._decode(sequence, cache, next_logits(self.network, cache, prompt_token_ids))

    def _sequence(self, prompt_token_ids: list[int], params: SamplingParams, seed: int) -> Sequence:
        constraint = self.constraints.start(params)
        return Sequence(prompt_token_ids, params, self.tokenizer, self.context, seed, constraint)

    def _decode(self, sequence: Sequence, cache: SequenceCache, logits: torch.Tensor) -> Iterator[Delta]:
        while True:
            with self.network.kernels.threads(1):
                (token,) = sample(logits, [sequence.row])
            if token is None:
                raise GenerationError(
                    f"the network gave logits that are not finite after {cache.length} tokens: its weights are damaged "
                    "or too large for their type (halfbyte inspect --verify looks for damage)"
                )
            delta = sequence.accept(token)
            yield delta
            if delta.finish_reason:
                return
            logits = next_logits(self.network, cache, [token])


def collect(index: int, deltas: Iterator[Delta]) -> CompletionOutput:
    """A streamed answer as a whole."""
    steps = list(deltas)
    text, token_ids = "".join(step.text for step in steps), [step.token_id for step in steps]
    return CompletionOutput(index, text, token_ids, steps[-1].finish_reason, steps[-1].stop_reason)
