"""The engine: requests in, a pass at a time, events out. It owns no thread and no process."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from halfbyte.engine.adapters import Adapters, for_pass
from halfbyte.engine.admission import check_request, prompt_of
from halfbyte.engine.answer import Answer
from halfbyte.engine.bad_words import tokens_of_words
from halfbyte.engine.block_pool import BlockPool
from halfbyte.engine.choose import choose
from halfbyte.engine.constraint import Constraints
from halfbyte.engine.damage import not_finite
from halfbyte.engine.memory import count_blocks
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.outputs import Begun
from halfbyte.engine.prompt_results import gather_prompt_logprobs, pool
from halfbyte.engine.request import Request
from halfbyte.engine.runner import Runner
from halfbyte.engine.sampler_row import SamplerRow
from halfbyte.engine.scheduler import Scheduler
from halfbyte.engine.sequence import Sequence
from halfbyte.engine.speculate import NgramIndex
from halfbyte.engine.stats import Stats
from halfbyte.errors import HalfbyteError

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.choose import Choice
    from halfbyte.engine.outputs import Delta
    from halfbyte.engine.request import Pooling
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.engine.scheduler import Scheduled
    from halfbyte.models.network import AdaptLayer, Network

    # a request's id, and a step of an answer, its pooled hidden state [D], or why it failed
    Event = tuple[str, Delta | torch.Tensor | HalfbyteError]


class Engine:
    """Answers requests side by side; `step` until there is no work."""

    def __init__(
        self, network: Network, tokenizer: Tokenizer, context: int, options: EngineOptions | None = None
    ) -> None:
        """context: the most tokens, prompt and answer together, of a sequence."""
        options = options or EngineOptions()
        config, size = network.config, options.block_size
        element = network.kernels.kv_cache(1, config.num_kv_heads, size, config.head_dim).element_size()
        seqs = options.max_num_seqs
        blocks = count_blocks(options.kv_cache, config, size, element, context, seqs, network.device)
        self.network, self.tokenizer, self.context, self.options = network, tokenizer, context, options
        self.constraints = Constraints(tokenizer, config.vocab_size)
        self.adapters = Adapters(config, network.device, enabled=options.enable_lora)
        self.runner = Runner(network, blocks, size)
        self.scheduler = Scheduler(
            BlockPool(blocks), size, options.max_num_batched_tokens, seqs, caching=options.enable_prefix_caching
        )
        self.requests: dict[str, Request] = {}
        self.stats = Stats(blocks=blocks)
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        """Whether a request is not finished."""
        return bool(self.requests)

    def check(self, token_ids: list[int], params: SamplingParams, pooling: Pooling | None = None) -> None:
        """Raise RequestError unless `add` would take this."""
        self.constraints.check(params)
        vocabulary = self.network.config.vocab_size
        check_request(prompt_of(token_ids, params), params, self.context, vocabulary, 0 if pooling else 1)

    def add(
        self,
        token_ids: list[int],
        params: SamplingParams,
        seed: int = 0,
        *,
        request_id: str | None = None,
        priority: int = 0,
        adapter: str | None = None,
        pooling: Pooling | None = None,
    ) -> str:
        """Queue a request and return its id. Raises RequestError if it is not valid.

        Answer i is drawn with the seed `seed + i`. priority: lower is served first. pooling: see Request.
        """
        self.check(token_ids, params, pooling)
        found = self.adapters.get(adapter)
        self._arrivals += 1
        request_id = str(self._arrivals) if request_id is None else request_id
        prompt = prompt_of(token_ids, params)
        request = Request(request_id, prompt, params, seed, self._arrivals, priority, found, pooling)
        self.requests[request_id] = request
        self._begin(request, 0)
        return request_id

    def abort(self, request_id: str) -> None:
        """End a request now; it gives no further event. An unknown id is none of ours any more."""
        request = self.requests.pop(request_id, None)
        if request is not None:
            self._drop(request)

    def step(self) -> list[Event]:
        """One pass through the network, and what came of it."""
        self._guess()
        batch = self.scheduler.schedule()
        if not batch:
            return []
        self.stats.drafted_tokens += sum(item.drafted for item in batch)
        self.stats.computed_tokens += sum(item.count for item in batch)
        self._note_beginnings(batch)
        adapt = for_pass([(item.sequence.request.adapter, item.count) for item in batch])
        hidden = self.runner.forward(batch, adapt)
        parts = torch.split(hidden, [item.count for item in batch])
        firsts = accumulate((item.count for item in batch), initial=0)
        choices = choose(self.network, hidden, list(zip(batch, firsts, strict=False)), self._text_of)
        events: list[Event] = []
        for item, part, choice in zip(batch, parts, choices, strict=True):
            try:
                events += self._advance(item, part, choice, adapt)
            except HalfbyteError as error:
                events.append(self._fail(item.sequence.request, error))
        self.stats.steps += 1
        self.count()
        return events

    def count(self) -> None:
        """Bring what `stats` says of this moment up to date; a step does it by itself."""
        stats, scheduler = self.stats, self.scheduler
        stats.preemptions = scheduler.preemptions
        stats.running, stats.waiting = len(scheduler.running), len(scheduler.waiting)
        stats.blocks_used = stats.blocks - scheduler.pool.available
        stats.queried_tokens, stats.cached_tokens = scheduler.queried_tokens, scheduler.cached_tokens

    def _advance(
        self, item: Scheduled, hidden: torch.Tensor, choice: Choice | None, adapt: AdaptLayer | None
    ) -> list[Event]:
        """Take what the pass gave one sequence."""
        sequence = item.sequence
        request = sequence.request
        if request.id not in self.requests:
            return []  # another of its answers has just failed
        gather_prompt_logprobs(self.network, item, hidden, self._text_of)
        if request.pooling:
            return self._pooled(item, hidden)
        if choice is None:  # there is more of the prompt
            self.scheduler.computed(sequence, sequence.num_computed + item.count)
            return []
        is_first = sequence.answer.count == 0
        deltas, is_damaged = self._accept(sequence, choice)
        if is_damaged:
            raise not_finite(self.runner, item, adapt)
        if is_first and sequence.answer.index == 0:
            deltas[0] = replace(deltas[0], prompt_logprobs=request.prompt_logprobs or None, begun=request.begun)
        self.scheduler.computed(sequence, len(sequence.token_ids) - 1)
        if is_first and sequence.answer.index == 0:
            for index in range(1, request.params.drawn):  # they find the prompt in the prefix cache
                self._begin(request, index)
        if deltas[-1].finish_reason:
            self._finish(sequence)
        return [(request.id, delta) for delta in deltas]

    def _accept(self, sequence: Sequence, choice: Choice) -> tuple[list[Delta], bool]:
        """Append the tokens chosen, as far as the draft was right; whether logits were not finite."""
        draft, sequence.draft = sequence.draft, []
        deltas: list[Delta] = []
        for place, token in enumerate(choice.tokens):
            if token is None:
                return deltas, True
            delta = sequence.answer.accept(token)
            sequence.token_ids.append(token)
            sequence.row.record(token)
            deltas.append(replace(delta, logprobs=choice.logprobs[place]) if choice.logprobs else delta)
            if delta.finish_reason or place == len(draft) or draft[place] != token:
                break
            self.stats.accepted_tokens += 1
        self.stats.generated_tokens += len(deltas)
        return deltas, False

    def _pooled(self, item: Scheduled, hidden: torch.Tensor) -> list[Event]:
        pooled = pool(item, hidden)
        self.scheduler.computed(item.sequence, item.sequence.num_computed + item.count)
        if pooled is None:
            return []
        self._finish(item.sequence)
        return [(item.sequence.request.id, pooled)]

    def _begin(self, request: Request, index: int) -> None:
        """Queue one of a request's answers."""
        params, prompt, tokenizer = request.params, request.prompt_token_ids, self.tokenizer
        constraint = self.constraints.start(params)
        answer = Answer(params, tokenizer, prompt, self.context - len(prompt), index, constraint)
        row = SamplerRow(
            params, request.seed + index, prompt,
            ends=(*answer.ends, *params.stop_ids),
            bad_words=tokens_of_words(params.bad_words or (), tokenizer),
            constraint=constraint,
        )  # fmt: skip
        sequence = Sequence(request, (request.priority, request.arrival, index), prompt.copy(), answer, row)
        sequence.cache_salt = self.runner.salt(len(prompt)) + (
            b"/%d" % request.adapter.number if request.adapter else b""
        )
        sequence.may_reuse_prefix = params.prompt_logprobs is None and request.pooling != "mean"
        if self.options.speculative_tokens and constraint is None and not request.pooling:
            sequence.ngrams = NgramIndex()
        request.sequences.append(sequence)
        self.scheduler.add(sequence)

    def _note_beginnings(self, batch: list[Scheduled]) -> None:
        now = time.monotonic()
        for item in batch:
            if item.sequence.request.begun is None:
                item.sequence.request.begun = Begun(now, item.sequence.num_computed)

    def _guess(self) -> None:
        """Let each sequence that is about to decode guess how it goes on."""
        if not self.options.speculative_tokens:
            return
        for sequence in self.scheduler.running:
            sequence.draft = []
            if sequence.ngrams is not None and sequence.pending == 1:
                room = sequence.answer.max_tokens - sequence.answer.count - 1
                most = min(self.options.speculative_tokens, room)
                sequence.draft = sequence.ngrams.propose(sequence.token_ids, most)

    def _finish(self, sequence: Sequence) -> None:
        request = sequence.request
        self.scheduler.remove(sequence)
        request.sequences.remove(sequence)
        if not request.sequences:
            del self.requests[request.id]

    def _fail(self, request: Request, error: HalfbyteError) -> Event:
        del self.requests[request.id]
        self._drop(request, keep=False)
        return request.id, error

    def _drop(self, request: Request, *, keep: bool = True) -> None:
        for sequence in request.sequences:
            self.scheduler.remove(sequence, keep=keep)
        request.sequences.clear()

    def _text_of(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False)
