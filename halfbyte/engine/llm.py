"""`LLM`: a model in this process, with the methods and words of vLLM's class of that name."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.containers import METHODS
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.engine.context import choose_context
from halfbyte.engine.generate import Engine
from halfbyte.engine.outputs import RequestOutput
from halfbyte.engine.prompt import ReadPrompt, as_list, read_prompt
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import ConfigError, RequestError
from halfbyte.models.loader import load_network
from halfbyte.prompts.templates import jinja_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from halfbyte.engine.outputs import Delta
    from halfbyte.engine.prompt import Prompt
    from halfbyte.models.loader import Compute
    from halfbyte.models.network import Network

Message = dict[str, Any]  # {"role": "user", "content": "..."}
Conversation = list[Message]
T = TypeVar("T")


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
        chat_template: str | None = None,
    ) -> None:
        """Load a model; raises a HalfbyteError that names what is wrong with it.

        model: any source (see `open_source`). quantization: "awq" or "compressed-tensors" insists on such a repository,
        None takes what is there. tokenizer: another source's, or one at hand. seed: what requests without a seed of
        their own draw theirs from. max_model_len: most tokens of prompt and answer together. compute: see
        `load_network`. chat_template: instead of the repository's own; Jinja, or a name in
        halfbyte.prompts.templates.TEMPLATES.
        """
        source = open_source(model)
        checkpoint = Checkpoint(source)
        _check_quantization(quantization, checkpoint)
        context = choose_context(checkpoint.config, max_model_len)
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.from_source(source if tokenizer is None else open_source(tokenizer))
        if chat_template is not None:
            tokenizer = tokenizer.with_chat_template(jinja_template(chat_template, adds_bos=tokenizer.adds_bos))
        self.tokenizer: Tokenizer = tokenizer
        self.network: Network = load_network(checkpoint, compute)
        self.engine = Engine(self.network, tokenizer, context)
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
    ) -> list[RequestOutput]:
        """Answer prompts; results are in their order. One SamplingParams serves all, or there is one for each.

        Every request is checked before the first is answered. use_tqdm: show progress, if stderr is a terminal.
        """
        read = [read_prompt(prompt, self.tokenizer) for prompt in as_list(prompts)]
        return self._answer(read, sampling_params, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, through the model's chat template."""
        return self._answer([self.chat_prompt(c) for c in _conversations(messages)], sampling_params, use_tqdm)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Iterator[Delta]:
        """One answer, token by token. The iterator may be closed at any moment."""
        return self._stream(read_prompt(prompt, self.tokenizer), sampling_params)

    def stream_chat(self, messages: Conversation, sampling_params: SamplingParams | None = None) -> Iterator[Delta]:
        """The answer to a conversation, token by token."""
        return self._stream(self.chat_prompt(messages), sampling_params)

    def chat_prompt(self, messages: Conversation) -> ReadPrompt:
        """A conversation as the model's chat template writes it, ready for the answer."""
        text = self.tokenizer.render_chat(messages)
        return ReadPrompt(text, self.tokenizer.encode(text, add_special_tokens=False))  # the template has written them

    def _answer(
        self,
        prompts: list[ReadPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        progress: bool,
    ) -> list[RequestOutput]:
        requests = list(zip(prompts, _one_each(sampling_params, len(prompts)), strict=True))
        for prompt, params in requests:
            self.engine.check(prompt.token_ids, params)
        return [self._complete(prompt, params) for prompt, params in _shown(requests, progress)]

    def _complete(self, prompt: ReadPrompt, params: SamplingParams) -> RequestOutput:
        outputs = self.engine.complete(prompt.token_ids, params, self._seed(params))
        return RequestOutput(prompt.text, prompt.token_ids, outputs)

    def _stream(self, prompt: ReadPrompt, params: SamplingParams | None) -> Iterator[Delta]:
        params = params or SamplingParams()
        if params.n != 1:
            raise RequestError(f"n is {params.n}; a stream gives one answer, so it must be 1")
        return self.engine.stream(prompt.token_ids, params, self._seed(params))

    def _seed(self, params: SamplingParams) -> int:
        return self._seeds.getrandbits(63) if params.seed is None else params.seed


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
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise RequestError(f"there are {count} prompts and {len(params)} sampling_params; give one, or one for each")
    return list(params)


def _conversations(messages: Conversation | Sequence[Conversation]) -> list[Conversation]:
    if all(isinstance(item, dict) for item in messages):
        return [messages]  # type: ignore[list-item]
    return list(messages)  # type: ignore[arg-type]


def _shown(requests: list[T], progress: bool) -> Iterable[T]:
    if not progress or not requests or not sys.stderr.isatty():
        return requests
    from rich.console import Console  # noqa: PLC0415  only where somebody looks
    from rich.progress import track  # noqa: PLC0415

    return track(requests, "Generating", console=Console(stderr=True))
