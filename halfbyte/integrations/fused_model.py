"""Our own network as a transformers model: `generate`, pipelines and beams by transformers, every product by us."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.engine.context import choose_context
from halfbyte.errors import ConfigError, IntegrationError, OutputError, RequestError
from halfbyte.integrations.cache_attention import CacheAttention
from halfbyte.integrations.thread_hooks import torch_threads
from halfbyte.integrations.transformers_parts import (
    CACHE_NAME,
    AutoConfig,
    CausalLMOutputWithPast,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from halfbyte.models.loader import load_network

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.source import Source
    from halfbyte.models.loader import Compute
    from halfbyte.models.network import Network


class FusedForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model whose forward pass is `Network.forward`. It lives on the CPU, in float32.

    The network holds its weights in its own form, so the module has no parameters, cannot train and cannot be saved.
    """

    _supports_sdpa = True
    main_input_name = "input_ids"

    def __init__(self, config: Any, network: Network, repository: str, context: int) -> None:
        """config: transformers' own. context: the most tokens of a sequence, prompt and answer together."""
        super().__init__(config)
        self.network, self.repository, self.context = network, repository, context
        self.threads_of_pass: int | None = None  # for torch, during `generate`; None: as many as it has
        self.eval()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations between the products."""
        return torch.float32

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        cache: Any = None,
        **others: Any,
    ) -> Any:
        """input_ids [B, T], attention_mask [B, past + T] with 0 for padding -> logits [B, T, V], or of the last tokens.

        Raises RequestError for what the fused network cannot do (embeddings as input, hidden states, attentions) and
        for a sequence longer than the context. cache: the name of past_key_values from transformers 5.24 on.
        """
        refuse_others(others)
        if input_ids is None:
            raise RequestError("the fused network takes input_ids; fuse_layers=False takes inputs_embeds too")
        cache = past_key_values if cache is None else cache
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=self.config)
        batch, new = input_ids.shape
        past = 0 if cache is None else int(cache.get_seq_length())
        keep = padding(attention_mask, past + new)
        positions = positions_of(keep, past, new) if position_ids is None else position_ids
        positions = positions.expand(batch, new)
        self._check(input_ids, positions)
        attend = CacheAttention(self.network.config, cache, batch, past, keep)
        lengths = (positions.amax(-1, keepdim=True) + 1).expand(batch, new).flatten()
        with torch_threads(self.threads_of_pass or torch.get_num_threads()):
            hidden = self.network.forward(input_ids.flatten(), positions.flatten(), attend, lengths)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = hidden.view(batch, new, -1)[:, kept]
        logits = self.network.logits(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1).clone()
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=logits.shape[-1])
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE_NAME: cache})
        return output.to_tuple() if return_dict is False else output

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        **options: Any,
    ) -> Any:
        """transformers' `generate`, with all of its arguments; an answer also ends where the context does.

        Between the passes torch works on one thread: its sampling of one row is too small for two, which would fight
        the kernels' for the cores.
        """
        criteria = StoppingCriteriaList([*(stopping_criteria or []), ContextFull(self.context)])
        self.threads_of_pass = torch.get_num_threads()
        try:
            with torch_threads(1):
                return super().generate(inputs, generation_config, logits_processor, criteria, **options)
        finally:
            self.threads_of_pass = None

    def to(self, *args: Any, **kwargs: Any) -> FusedForCausalLM:
        """Stay. Raises IntegrationError if asked to be elsewhere than on the CPU, or in another dtype than float32."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if (device is not None and device.type != "cpu") or dtype not in (None, torch.float32):
            raise IntegrationError(f"the fused network runs on the CPU in float32; it cannot go to {device or dtype}")
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Raises OutputError: the model is its repository."""
        raise OutputError(
            f"the fused network's weights are in this machine's form and cannot be saved; {self.repository} is the "
            "model, copy it instead"
        )

    @staticmethod
    def create_masks_for_generate(attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor | None:
        """For transformers, before a pass over a static cache: the mask as it is, [B, S]; attention makes its own."""
        return attention_mask

    def _check(self, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        if input_ids.numel() == 0:
            raise RequestError("the prompt is empty: give at least one token")
        length = int(positions.max()) + 1
        if length > self.context:
            raise RequestError(f"the sequence has {length} tokens and the context is {self.context}")
        vocabulary = self.network.config.vocab_size
        if not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocabulary:
            raise RequestError(f"input_ids hold ids from {int(input_ids.min())} to {int(input_ids.max())}; "
                               f"the vocabulary has {vocabulary}")  # fmt: skip


class ContextFull(StoppingCriteria):  # type: ignore[misc]
    """Ends every sequence of a batch when it is as long, padding included, as the context."""

    def __init__(self, context: int) -> None:
        self.context = context

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """[B] bool."""
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.context)


def load_fused(checkpoint: Checkpoint, max_seq_len: int | None = None, compute: Compute = "auto") -> FusedForCausalLM:
    """A checkpoint, quantized or not, as a transformers model. Raises ConfigError for a context that is too long.

    compute: see `load_network`.
    """
    try:
        context = choose_context(checkpoint.config, max_seq_len)
    except ConfigError as error:
        raise ConfigError(f"max_seq_len: {error}") from error
    source = checkpoint.source
    config = transformers_config(source)
    model = class_named(checkpoint.config.architecture)(config, load_network(checkpoint, compute), source.spec, context)
    settings = source.file("generation_config.json")
    if settings is not None:
        model.generation_config = GenerationConfig.from_dict(json.loads(settings))
    return model


def transformers_config(source: Source) -> Any:
    """config.json as transformers' class for it."""
    family = type(AutoConfig.for_model(source.config["model_type"]))
    config = family.from_dict(source.config)
    config.name_or_path = source.spec
    return config


@functools.cache
def class_named(architecture: str) -> type[FusedForCausalLM]:
    """A fused class under the architecture's own name, by which transformers' pipelines know what a model can do."""
    return type(architecture, (FusedForCausalLM,), {"__doc__": FusedForCausalLM.__doc__, "__module__": __name__})


def refuse_others(others: dict[str, Any]) -> None:
    """Raise RequestError for an argument of forward that asks for something."""
    for name, value in others.items():
        if value is not None and value is not False:
            raise RequestError(f"the fused network cannot do {name}; load with fuse_layers=False for transformers' own")


def padding(attention_mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """[B, length] bool, False for padding; None if nothing is padding. Tokens that the mask does not reach are real."""
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2:
        raise RequestError(
            f"attention_mask has {attention_mask.ndim} dimensions; the fused network takes [batch, tokens]"
        )
    keep = attention_mask.bool()[:, :length]
    if keep.all():
        return None
    return torch.nn.functional.pad(keep, (0, length - keep.shape[1]), value=True)


def positions_of(keep: torch.Tensor | None, past: int, new: int) -> torch.Tensor:
    """[B or 1, new]: the place of each new token among the real ones of its sequence."""
    if keep is None:
        return torch.arange(past, past + new)[None]
    return (keep.long().cumsum(-1) - 1).clamp(min=0)[:, past : past + new]
