"""`LLM`: a model in this process, with the methods and words of vLLM's class of that name."""

from __future__ import annotations

import contextlib
import random
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.containers import METHODS
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.engine.admission import check_params, check_pooling, check_service, prompt_of
from halfbyte.engine.collector import Collector
from halfbyte.engine.context import choose_context
from halfbyte.engine.core import Engine
from halfbyte.engine.dtypes import compute_of
from halfbyte.engine.local import LocalEngine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.outputs import EmbeddingOutput, ScoringOutput
from halfbyte.engine.prompt import ReadPrompt, as_list, read_prompt
from halfbyte.engine.ranks import start_ranks
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.engine.vllm_words import cache_of_utilization, check_utilization, check_words
from halfbyte.errors import ConfigError, HalfbyteError, RequestError
from halfbyte.models.loader import load_network
from halfbyte.prompts.templates import jinja_template, stops_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from halfbyte.checkpoint.source import Source
    from halfbyte.engine.outputs import Delta, RequestOutput
    from halfbyte.engine.prompt import Prompt
    from halfbyte.engine.request import Pooling
    from halfbyte.kernels.cache_kind import CacheKind
    from halfbyte.models.loader import Compute
    from halfbyte.models.network import Network

Message = dict[str, Any]  # {"role": "user", "content": "..."}
Conversation = list[Message]


class LLM:
    """Loads a model and answers prompts."""

    def __init__(
        self,
        model: str | Path,
        quantization: str | None = None,
        *,
        tokenizer: str | Path | Tokenizer | None = None,
        seed: int = 0,
        max_model_len: int | None = None,
        compute: Compute = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        device: str = "auto",
        chat_template: str | None = None,
        kv_cache: str | float | None = None,
        kv_cache_dtype: CacheKind = "auto",
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        enable_prefix_caching: bool = True,
        speculative_tokens: int = 0,
        enable_lora: bool = False,
        tensor_parallel_size: int = 1,
        deterministic: bool = False,
        gpu_memory_utilization: float | None = None,
        **vllm: Any,
    ) -> None:
        """Load a model; raises a HalfbyteError that names what is wrong with it.

        model: any source (see `open_source`). quantization: "awq" or "compressed-tensors" insists on such a repository,
        None takes what is there. tokenizer: another source's, or one at hand. seed: what requests without a seed of
        their own draw theirs from. max_model_len: most tokens of prompt and answer together. compute, device: see
        `load_network`. dtype: vLLM's name for compute ("half" is "auto"). trust_remote_code: no code of a repository is
        run, even so. chat_template: instead of the repository's own; Jinja, or a name in
        halfbyte.prompts.templates.TEMPLATES, whose stop strings then end answers to chats. tensor_parallel_size:
        processes that compute each token together, each on a GPU of its own (on a CPU they divide its threads), this
        one and others that end with it. gpu_memory_utilization: the share of a GPU's memory that all may take, where
        kv_cache does not say it; it means nothing on a CPU. vllm: words of vLLM's that change no answer here (see
        vllm_words). The rest: see EngineOptions.
        """
        del trust_remote_code
        check_words(vllm)
        check_utilization(gpu_memory_utilization, tensor_parallel_size)
        compute = compute_of(dtype, compute)
        options = EngineOptions(
            kv_cache=kv_cache,
            kv_cache_dtype=kv_cache_dtype,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_prefix_caching=enable_prefix_caching,
            speculative_tokens=speculative_tokens,
            enable_lora=enable_lora,
            deterministic=deterministic,
        )
        source = open_source(model)
        checkpoint = Checkpoint(source)
        _check_quantization(quantization, checkpoint)
        context = choose_context(checkpoint.config, max_model_len)
        tokenizer = load_tokenizer(source, tokenizer, chat_template)
        self.tokenizer = tokenizer
        self._chat_stops = stops_of(chat_template)
        ranks = start_ranks(checkpoint, model, tensor_parallel_size, compute, device, context, options)
        try:
            self.network: Network = load_network(
                checkpoint,
                compute,
                adaptable=enable_lora,
                device=device,
                deterministic=deterministic,
                collective=None if ranks is None else ranks.group,
            )
            if gpu_memory_utilization is not None and kv_cache is None:
                options = replace(options, kv_cache=cache_of_utilization(gpu_memory_utilization, self.network.device))
            self.engine = Engine(self.network, tokenizer, context, options, ranks)
        except BaseException:
            if ranks is not None:
                ranks.end()
            raise
        self._local = LocalEngine(self.engine)
        self._seeds = random.Random(seed)

    @property
    def max_model_len(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.engine.context

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: int | Sequence[int] = 0,
        adapter: str | None = None,
    ) -> list[RequestOutput]:
        """Answer prompts; results are in their order. One SamplingParams serves all, or there is one for each.

        Every request is checked before the first is answered. If one of several then fails, its `error` says why and
        the others are answered; the error of a single one is raised. use_tqdm: show progress, if stderr is a terminal.
        priority: lower is served first. adapter: see load_adapter.
        """
        read = [read_prompt(prompt, self.tokenizer) for prompt in as_list(prompts)]
        return self._answer(read, sampling_params, use_tqdm, priority, adapter)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: int | Sequence[int] = 0,
        adapter: str | None = None,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, through the model's chat template.

        tools: as OpenAI declares them, for the template to show. chat_template: another one, in Jinja, for these.
        chat_template_kwargs: what else it reads, such as enable_thinking.
        """
        tokenizer = _with_template(self.tokenizer, chat_template)
        variables = {"add_generation_prompt": add_generation_prompt, "tools": tools, **(chat_template_kwargs or {})}
        read = [_rendered(tokenizer, c, variables) for c in _conversations(messages)]
        params = [self._in_chat(p) for p in _one_each(sampling_params, len(read))]
        stops = stops_of(chat_template)
        params = [replace(p, stop=(*p.stop_strings, *stops)) for p in params] if stops else params
        return self._answer(read, params, use_tqdm, priority, adapter)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        use_tqdm: bool = True,
        *,
        pooling: Pooling = "last",
        adapter: str | None = None,
    ) -> list[EmbeddingOutput]:
        """The network's final hidden state, after its last norm: of the last token, or the mean over all."""
        check_service(0, adapter)
        check_pooling(pooling)
        read = [read_prompt(prompt, self.tokenizer) for prompt in as_list(prompts)]
        params = SamplingParams()
        for prompt in read:
            self.engine.check(prompt.token_ids, params, pooling)
        ids = [self._local.add(p.token_ids, params, adapter=adapter, pooling=pooling) for p in read]
        found: list[EmbeddingOutput] = []
        with self._closing(ids), shown(len(ids), "Embedding", use_tqdm) as advance:
            for prompt, request_id in zip(read, ids, strict=True):
                (result,) = self._local.take(request_id)
                if isinstance(result, HalfbyteError):
                    raise result
                found.append(EmbeddingOutput(prompt.text, prompt.token_ids, result))  # type: ignore[arg-type]
                advance()
        return found

    def score(
        self,
        data_1: Prompt | Sequence[Prompt],
        data_2: Prompt | Sequence[Prompt],
        use_tqdm: bool = True,
        *,
        pooling: Pooling = "last",
        adapter: str | None = None,
    ) -> list[ScoringOutput]:
        """How alike texts are: each of data_2 with its partner in data_1, or with the only one there."""
        first, second = as_list(data_1), as_list(data_2)
        if len(first) not in (1, len(second)):
            raise RequestError(f"there are {len(first)} texts to score {len(second)} against; give one, or as many")
        found = self.embed([*first, *second], use_tqdm, pooling=pooling, adapter=adapter)
        vectors = [output.embedding.double() for output in found]
        ones = vectors[: len(first)] * (len(second) if len(first) == 1 else 1)
        pairs = zip(ones, vectors[len(first) :], strict=True)
        return [ScoringOutput(float(x @ y / (x.norm() * y.norm()).clamp(min=1e-300))) for x, y in pairs]

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Load a LoRA adapter in PEFT's format, to be asked for by name. Needs enable_lora=True."""
        self.engine.adapters.load(name, folder)

    def unload_adapter(self, name: str) -> None:
        """Drop an adapter; requests that have it end with it."""
        self.engine.adapters.unload(name)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Delta]:
        """One answer, token by token. The iterator may be closed at any moment."""
        return self._stream(read_prompt(prompt, self.tokenizer), sampling_params, adapter)

    def stream_chat(
        self, messages: Conversation, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Delta]:
        """The answer to a conversation, token by token."""
        params = SamplingParams() if sampling_params is None else sampling_params
        return self._stream(self.chat_prompt(messages), self._in_chat(params), adapter)

    def chat_prompt(self, messages: Conversation) -> ReadPrompt:
        """A conversation as the model's chat template writes it, ready for the answer."""
        return _rendered(self.tokenizer, messages, {})

    def _in_chat(self, params: SamplingParams) -> SamplingParams:
        check_params(params)
        return replace(params, stop=(*params.stop_strings, *self._chat_stops)) if self._chat_stops else params

    def _answer(
        self,
        prompts: list[ReadPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        progress: bool,
        priority: int | Sequence[int],
        adapter: str | None,
    ) -> list[RequestOutput]:
        params = _one_each(sampling_params, len(prompts))
        priorities = list(priority) if isinstance(priority, list | tuple) else [priority] * len(prompts)
        if len(priorities) != len(prompts):
            raise RequestError(
                f"there are {len(prompts)} prompts and {len(priorities)} priorities; give one, or one for each"
            )
        for prompt, p, rank in zip(prompts, params, priorities, strict=True):
            self.engine.check(prompt.token_ids, p)
            check_service(rank, adapter)
        ids: list[str] = []
        outputs: list[RequestOutput] = []
        with self._closing(ids), shown(len(prompts), "Generating", progress) as advance:
            for prompt, p, rank in zip(prompts, params, priorities, strict=True):
                seed = self._seed(p)
                ids.append(self._local.add(prompt.token_ids, p, seed, priority=rank, adapter=adapter))
            for prompt, p, request_id in zip(prompts, params, ids, strict=True):
                output = self._collect(request_id, Collector(prompt.text, prompt_of(prompt.token_ids, p), p))
                outputs.append(replace(output, request_id=request_id))
                advance()
        if len(outputs) == 1 and outputs[0].error is not None:
            raise outputs[0].error
        return outputs

    def _collect(self, request_id: str, collector: Collector) -> RequestOutput:
        while not collector.finished:
            for result in self._local.take(request_id):
                if isinstance(result, HalfbyteError):
                    output = collector.output()
                    output.error, output.finished = result, True
                    return output
                collector.add(result)  # type: ignore[arg-type]
        return collector.output()

    def _stream(self, prompt: ReadPrompt, params: SamplingParams | None, adapter: str | None) -> Iterator[Delta]:
        params = SamplingParams() if params is None else params
        check_params(params)
        if params.drawn != 1:
            raise RequestError(f"n is {params.drawn}; a stream gives one answer, so it must be 1")
        self.engine.check(prompt.token_ids, params)
        self.engine.adapters.get(adapter)
        return self._stream_checked(prompt, params, self._seed(params), adapter)

    def _stream_checked(
        self, prompt: ReadPrompt, params: SamplingParams, seed: int, adapter: str | None
    ) -> Iterator[Delta]:
        yield from self._local.stream(self._local.add(prompt.token_ids, params, seed, adapter=adapter))

    @contextlib.contextmanager
    def _closing(self, ids: list[str]) -> Iterator[None]:
        """Whatever happens, leave no request behind."""
        try:
            yield
        finally:
            for request_id in ids:
                self._local.close(request_id)

    def _seed(self, params: SamplingParams) -> int:
        return self._seeds.getrandbits(63) if params.seed is None else params.seed


def load_tokenizer(
    source: Source, tokenizer: str | Path | Tokenizer | None = None, chat_template: str | None = None
) -> Tokenizer:
    """The source's tokenizer, or that of another source, or the one at hand; with another chat template if asked."""
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_source(source if tokenizer is None else open_source(tokenizer))
    return _with_template(tokenizer, chat_template)


def _with_template(tokenizer: Tokenizer, chat_template: str | None) -> Tokenizer:
    if chat_template is None:
        return tokenizer
    return tokenizer.with_chat_template(jinja_template(chat_template, adds_bos=tokenizer.adds_bos))


def _rendered(tokenizer: Tokenizer, messages: Conversation, variables: dict[str, Any]) -> ReadPrompt:
    text = tokenizer.render_chat(messages, **variables)
    return ReadPrompt(text, tokenizer.encode(text, add_special_tokens=False))  # the template has written them


def _check_quantization(quantization: str | None, checkpoint: Checkpoint) -> None:
    if quantization not in (None, *METHODS):
        known = ", ".join(map(repr, METHODS))
        raise ConfigError(f"quantization is {quantization!r}; it must be {known}, or None to take what the model has")
    found = None if checkpoint.container is None else checkpoint.container.name
    if quantization not in (None, found):
        raise ConfigError(
            f"{checkpoint.source.spec} is not {quantization} but {found or 'not quantized'}: leave out "
            f"quantization={quantization!r}, or make such a repository with halfbyte quantize"
        )


def _one_each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if not isinstance(params, list | tuple):
        one = SamplingParams() if params is None else params
        check_params(one)
        return [one] * count  # type: ignore[list-item]
    if len(params) != count:
        raise RequestError(f"there are {count} prompts and {len(params)} sampling_params; give one, or one for each")
    for each in params:
        check_params(each)
    return list(params)


def _conversations(messages: Conversation | Sequence[Conversation]) -> list[Conversation]:
    if not isinstance(messages, list | tuple):
        return [messages]  # type: ignore[list-item]  # which the template's checks refuse
    if all(isinstance(item, dict) for item in messages):
        return [messages]  # type: ignore[list-item]
    return list(messages)  # type: ignore[arg-type]


@contextlib.contextmanager
def shown(total: int, what: str, wanted: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, if it is a terminal; call what it gives for each part that is done."""
    if not wanted or not total or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415  only where somebody looks
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
