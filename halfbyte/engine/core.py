"""The engine: requests in, a pass at a time, events out. It owns no thread and no process."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from halfbyte.engine.adapters import Adapters, for_pass
from halfbyte.engine.admission import check_params, check_request, check_service, prompt_of
from halfbyte.engine.block_pool import BlockPool
from halfbyte.engine.choose import choose
from halfbyte.engine.constraint import Constraints
from halfbyte.engine.damage import not_finite
from halfbyte.engine.flight import Drawn, Flight
from halfbyte.engine.memory import blocks_for
from halfbyte.engine.new_sequence import new_sequence
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.prompt_results import gather_prompt_logprobs, pool
from halfbyte.engine.request import Request
from halfbyte.engine.requests import Requests
from halfbyte.engine.runner import Runner
from halfbyte.engine.sampler import UNDECIDED
from halfbyte.engine.scheduler import Scheduler
from halfbyte.engine.speculate import guess
from halfbyte.engine.stats import Stats
from halfbyte.errors import ConfigError, HalfbyteError
from halfbyte.kernels.inference import without_gradients
from halfbyte.models.split_head import SplitHead

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.choose import Choice
    from halfbyte.engine.outputs import Delta
    from halfbyte.engine.ranks import Ranks
    from halfbyte.engine.request import Pooling
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.engine.scheduler import Scheduled
    from halfbyte.engine.sequence import Sequence
    from halfbyte.models.network import AdaptLayer, Network

    # a request's id, and a step of an answer, its pooled hidden state [D], or why it failed
    Event = tuple[str, Delta | torch.Tensor | HalfbyteError]


class Engine:
    """Answers requests side by side; `step` until there is no work."""

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        context: int,
        options: EngineOptions | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """context: the most tokens, prompt and answer together, of a sequence.

        ranks: the processes that have the other shares of the network.
        """
        options = options or EngineOptions()
        if options.deterministic and not getattr(network.kernels, "fixed", True):  # a CPU's always are
            raise ConfigError("deterministic needs a network loaded for it: load_network(..., deterministic=True)")
        config, size = network.config, options.block_size
        kind = options.kv_cache_dtype
        seqs, tokens = options.limits(network.device.type)
        blocks = blocks_for(network, options, context)
        if ranks is not None:
            blocks = ranks.begin(blocks)
            assert isinstance(network.head, SplitHead)
            network.head.together = ranks.with_head
        self.ranks = ranks
        self.network, self.tokenizer, self.context, self.options = network, tokenizer, context, options
        self.constraints = Constraints(tokenizer, config.vocab_size)
        self.adapters = Adapters(config, network.device, network.share, ranks, enabled=options.enable_lora)
        self.scheduler = Scheduler(BlockPool(blocks), size, tokens, seqs, caching=options.enable_prefix_caching)
        self.runner = Runner(network, blocks, size, self.scheduler.tables, kind, ranks)
        self.overlap = network.device.type != "cpu" if options.overlap is None else options.overlap
        self._flight: Flight | None = None  # launched, and not landed
        self.requests = Requests(self.scheduler, self._new_sequence)
        self.stats = Stats(blocks=blocks)
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        """Whether a request is not finished."""
        return bool(self.requests)

    def check(self, token_ids: list[int], params: SamplingParams, pooling: Pooling | None = None) -> None:
        """Raise RequestError unless `add` would take this."""
        check_params(params)
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
        check_service(priority, adapter)
        found = self.adapters.get(adapter)
        self._arrivals += 1
        request_id = str(self._arrivals) if request_id is None else request_id
        prompt = prompt_of(token_ids, params)
        request = Request(request_id, prompt, params, seed, self._arrivals, priority, found, pooling)
        self.requests[request_id] = request
        self.requests.begin(request, 0)
        return request_id

    def abort(self, request_id: str) -> None:
        """End a request now; it gives no further event. An unknown id is none of ours any more."""
        request = self.requests.pop(request_id, None)
        if request is not None:
            self.requests.drop(request)

    def step(self) -> list[Event]:
        """What came of one pass through the network, behind which the next may have been launched."""
        try:
            flight = self._flight
            if flight is None or flight.is_for_nothing:
                flight = self._launch()
            if flight is None:
                return []
            self._flight = self._launch(flight) if self._may_overtake(flight) else None
            if isinstance(flight.outcome, Drawn):
                events = self._land_drawn(flight, flight.outcome)
            else:
                events = self._land(flight.batch, flight.outcome)
        except BaseException:  # an interrupt, most likely: what was under way will be computed again
            self._flight = None
            self.scheduler.recall()
            raise
        if self._flight is not None and self._flight.is_for_nothing:
            self._flight = None
        if self.ranks is not None:
            self.ranks.check()  # on a GPU what was computed without one of them came back all the same
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

    def _may_overtake(self, flight: Flight) -> bool:
        """Whether a pass can be launched before what `flight` chooses is known here."""
        scheduler = self.scheduler
        return (
            self.overlap
            and isinstance(flight.outcome, Drawn)
            and _are_plain(scheduler.running)
            and _are_plain(scheduler.waiting[: scheduler.max_seqs])
        )

    def _can_draw(self, sequences: list[Sequence]) -> bool:
        """Whether the next tokens can be chosen at once, as part of the pass. Edits take what is known only here."""
        return _are_plain(sequences) if self.overlap else all(sequence.is_plain for sequence in sequences)

    @without_gradients
    def _launch(self, before: Flight | None = None) -> Flight | None:
        """before: the pass whose tokens are not known here yet."""
        if self.options.speculative_tokens:
            guess(self.scheduler.running, self.options.speculative_tokens)
        batch = self.scheduler.schedule()
        if not batch:
            return None
        if self.ranks is not None:
            self.ranks.drop_adapters(self._adapters_in_use)
        self.stats.took(sum([item.count for item in batch]))
        self.requests.note_beginnings(batch)
        chosen = before.outcome.inputs if before and isinstance(before.outcome, Drawn) else None
        with self.network.kernels.threads(sum([item.count for item in batch])):  # once for what asks for it within
            hidden = self.runner.forward(batch, self._adapt(batch), chosen=chosen)
            if not self._can_draw([item.sequence for item in batch]):
                return Flight(batch, hidden)
            return Flight(batch, Drawn(self.network, batch, hidden, may_wait=not self.overlap))

    def _adapt(self, batch: list[Scheduled]) -> AdaptLayer | None:
        if not self.options.enable_lora:
            return None
        return for_pass([(item.sequence.request.adapter, item.count) for item in batch])

    def _adapters_in_use(self) -> set[int]:
        return {request.adapter.number for request in self.requests.values() if request.adapter is not None}

    def _land_drawn(self, flight: Flight, drawn: Drawn) -> list[Event]:
        """Take note of a pass whose tokens were drawn on the device."""
        events: list[Event] = []
        tokens, lane = drawn.read(), -1
        for item in flight.batch:
            sequence = item.sequence
            lane += item.is_complete
            if sequence.ended or sequence in flight.void:
                continue
            if not item.is_complete:  # there is more of the prompt
                self.scheduler.computed(sequence, item.count, item.first + item.count)
                continue
            sequence.unknown -= 1
            token: int | None = tokens[lane]
            if token == UNDECIDED:
                token = self._decide(drawn, lane, sequence)
            try:
                if token is None or token < 0 or sequence.row.problem:
                    raise self._what_is_wrong(item)
                delta = sequence.answer.accept(token)
            except HalfbyteError as error:
                events.append(self.requests.fail(sequence.request, error))
                continue
            sequence.token_ids.append(token)
            sequence.row.record(token)
            self.stats.generated_tokens += 1
            if sequence.answer.count > 1 and delta.finish_reason is None:  # nearly always: no more to be done
                self.scheduler.computed(sequence, item.count, len(sequence.token_ids) - 1)
                events.append((sequence.request.id, delta))
            else:
                events += self._answered(item, [delta])
        return events

    def _decide(self, drawn: Drawn, lane: int, sequence: Sequence) -> int | None:
        """The token of a lane that the device left open. A pass that was launched meanwhile has computed nonsense."""
        later = self._flight
        for item in later.batch if later else ():
            if item.sequence is sequence and later:
                later.void.add(sequence)
                sequence.ahead -= item.count
                sequence.unknown -= item.is_complete
        sequence.is_plain = False  # it may be so again, and each time is a pass for nothing
        return drawn.decide(lane)

    def _land(self, batch: list[Scheduled], hidden: torch.Tensor) -> list[Event]:
        """Choose the tokens of a pass whose requests ask for more than drawing them, and take note of it."""
        self.stats.drafted_tokens += sum(item.drafted for item in batch)
        parts = torch.split(hidden, [item.count for item in batch])
        firsts = accumulate((item.count for item in batch), initial=0)
        choices = choose(self.network, hidden, list(zip(batch, firsts, strict=False)), self._text_of)
        events: list[Event] = []
        for item, part, choice in zip(batch, parts, choices, strict=True):
            if item.sequence.ended:
                continue  # another of its request's answers has just failed
            try:
                events += self._advance(item, part, choice)
            except HalfbyteError as error:
                events.append(self.requests.fail(item.sequence.request, error))
        return events

    def _advance(self, item: Scheduled, hidden: torch.Tensor, choice: Choice | None) -> list[Event]:
        """Take what the pass gave one sequence."""
        sequence = item.sequence
        gather_prompt_logprobs(self.network, item, hidden, self._text_of)
        if sequence.request.pooling:
            return self._pooled(item, hidden)
        if choice is None:  # there is more of the prompt
            self.scheduler.computed(sequence, item.count, item.first + item.count)
            return []
        sequence.unknown -= 1
        deltas, is_damaged = self._accept(sequence, choice)
        if is_damaged:
            raise self._what_is_wrong(item)
        return self._answered(item, deltas)

    def _answered(self, item: Scheduled, deltas: list[Delta]) -> list[Event]:
        """Take note of more of an answer, which the sequence has already."""
        sequence, request = item.sequence, item.sequence.request
        is_first = sequence.answer.count == len(deltas) and sequence.answer.index == 0
        self.scheduler.computed(sequence, item.count, len(sequence.token_ids) - 1)
        if is_first:
            deltas[0].prompt_logprobs, deltas[0].begun = request.prompt_logprobs or None, request.begun
            for index in range(1, request.params.drawn):  # they find the prompt in the prefix cache
                self.requests.begin(request, index)
        if deltas[-1].finish_reason:
            self.requests.finish(sequence)
        return [(request.id, delta) for delta in deltas]

    def _accept(self, sequence: Sequence, choice: Choice) -> tuple[list[Delta], bool]:
        """Append the tokens chosen, as far as the draft was right; whether logits were not finite."""
        draft, sequence.draft = sequence.draft, []
        deltas: list[Delta] = []
        for place, token in enumerate(choice.tokens):
            if token is None or choice.problems[place]:
                sequence.row.problem = choice.problems[place]
                return deltas, True
            delta = sequence.answer.accept(token)
            sequence.token_ids.append(token)
            sequence.row.record(token)
            delta.logprobs = choice.logprobs[place] if choice.logprobs else None
            deltas.append(delta)
            if delta.finish_reason or place == len(draft) or draft[place] != token:
                break
            self.stats.accepted_tokens += 1
        self.stats.generated_tokens += len(deltas)
        return deltas, False

    def _what_is_wrong(self, item: Scheduled) -> HalfbyteError:
        """Why there is no next token."""
        return item.sequence.row.problem or not_finite(self.runner, item, self._adapt([item]))

    def _pooled(self, item: Scheduled, hidden: torch.Tensor) -> list[Event]:
        pooled = pool(item, hidden)
        self.scheduler.computed(item.sequence, item.count, item.first + item.count)
        if pooled is None:
            return []
        self.requests.finish(item.sequence)
        return [(item.sequence.request.id, pooled)]

    def _new_sequence(self, request: Request, index: int) -> Sequence:
        constraint = self.constraints.start(request.params)
        salt, speculates = self.runner.salt(len(request.prompt_token_ids)), self.options.speculative_tokens > 0
        return new_sequence(request, index, self.tokenizer, self.context, constraint, salt=salt, speculates=speculates)

    def _text_of(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False)


def _are_plain(sequences: list[Sequence]) -> bool:
    """Whether nothing has to be known here to choose the next token of each."""
    return all(sequence.is_plain and not sequence.row.edits for sequence in sequences)
