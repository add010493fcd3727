"""The forward pass that every supported family shares: spans of token-wise work with attention between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from halfbyte.kernels.inference import without_gradients
from halfbyte.kernels.interface import AfterAttention, Kernels, LinearWeight, PassShape, Span
from halfbyte.kernels.reference import rms_norm
from halfbyte.models.rope import Rope, rotate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.kernels.interface import PagedCaches
    from halfbyte.models.attend import Attend
    from halfbyte.models.share import Share

# (span, name of the linear in it, its input, its output, to be added to): see interface.Adapt
AdaptLayer = Callable[[int, str, torch.Tensor, torch.Tensor], None]
Watch = Callable[[str, torch.Tensor], None]


@dataclass(slots=True)
class Block:
    """The weights of one transformer block; projections that share their input are stacked."""

    input_norm: torch.Tensor  # [D]
    qkv: LinearWeight  # [(H + 2 * Hkv) * d, D]
    q_norm: torch.Tensor | None  # [d], Qwen3
    k_norm: torch.Tensor | None
    after: AfterAttention

    def linears(self) -> dict[str, LinearWeight]:
        """The stacked linears, by the name that `reference` observes their inputs under."""
        after = self.after
        return {"qkv": self.qkv, "o": after.o, "gate_up": after.gate_up, "down": after.down}


class Network:
    """A causal language model, ready to run.

    Tokens of a pass lie in one flat row of T, of one sequence or of many: only `attend` knows which is which.
    """

    def __init__(
        self,
        config: ModelConfig,
        embedding: torch.Tensor,
        blocks: Iterable[Block],
        final_norm: torch.Tensor,
        head: torch.Tensor,
        kernels: Kernels,
    ) -> None:
        """embedding, head: [V, D]. `blocks` is read once, one at a time, so that a lazy loader holds one at a time."""
        self.config = config
        self.kernels = kernels
        self.embedding = embedding
        self.rope = Rope(config)
        self.qk_norms: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        self.spans = []
        after: AfterAttention | None = None
        for block in blocks:
            self.spans.append(kernels.span(Span(config.rms_norm_eps, after, block.input_norm, block.qkv)))
            norms = block.q_norm is not None and block.k_norm is not None
            self.qk_norms.append((block.q_norm.float(), block.k_norm.float()) if norms else None)  # type: ignore[union-attr]
            after = block.after
        self.spans.append(kernels.span(Span(config.rms_norm_eps, after, final_norm, None)))
        self.share: Share | None = None  # what of it is in this process; None: all, and `config` is the whole network's
        self.whole_pass = kernels.whole_pass(self._shape(), self.spans)
        self.head = kernels.head(head)

    @property
    def device(self) -> torch.device:
        """Where tokens are to be."""
        return self.embedding.device

    @without_gradients
    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        lengths: torch.Tensor | None = None,
        adapt: AdaptLayer | None = None,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        """Hidden states [T, D] after the final norm, for tokens [T] at positions [T] (lengths: see `Rope`).

        adapt: what adapters add. watch: shown what each part gives, by the part's name, to look for damage.
        """
        see = watch or (lambda part, value: None)
        past: PagedCaches | None = getattr(attend, "paged", None)
        # the whole pass by one call, if the kernels have one and the past lies in their caches
        at_once = self.whole_pass if adapt is None and watch is None and past is not None else None
        with self.kernels.threads(tokens.shape[0]):
            if at_once is not None and past is not None and past.batch.max_query == 1:
                hidden = at_once.decode(tokens, positions, lengths, past)
                if hidden is not None:
                    return hidden
            embedded, cos, sin = begin(self.embedding, self.rope, tokens, positions, lengths)
            if at_once is not None and past is not None:
                hidden = at_once(embedded, cos, sin, past)
                if hidden is not None:
                    return hidden
            see("the embedding", embedded)
            x, residual = self.spans[0](None, embedded, adapt and partial(adapt, 0))
            for layer, span in enumerate(self.spans[1:]):
                see(f"the q, k and v projection of layer {layer}", x)
                q, k, v = split_heads(x, self.config, self.qk_norms[layer], cos, sin)
                attended = attend(layer, q, k, v)
                see(f"the attention of layer {layer}", attended)
                x, residual = span(attended, residual, adapt and partial(adapt, layer + 1))
                see(f"the output projection or MLP of layer {layer}", residual)
            see("the final norm", x)
            return x.clone()  # kernels may reuse their buffers

    def _shape(self) -> PassShape:
        c = self.config
        first = partial(begin, self.embedding, self.rope)
        shape = PassShape(c.num_heads, c.num_kv_heads, c.head_dim, c.rms_norm_eps, self.qk_norms, first)
        shape.embedding, shape.angles = self.embedding, self.rope.listed
        return shape

    @without_gradients
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits [N, V] of hidden states [N, D]."""
        return self.head(hidden)


def begin(
    embedding: torch.Tensor, rope: Rope, tokens: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a pass begins with: see interface.Begin."""
    return embedding.index_select(0, tokens).float(), *rope(positions, lengths)


def split_heads(
    qkv: torch.Tensor,
    config: ModelConfig,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """qkv [T, (H + 2 * Hkv) * d] -> rotated q [T, H, d], rotated k [T, Hkv, d], v [T, Hkv, d]."""
    heads, kv_heads = config.num_heads, config.num_kv_heads
    x = qkv.view(qkv.shape[0], heads + 2 * kv_heads, config.head_dim)
    qk, v = x.split_with_sizes((heads + kv_heads, kv_heads), 1)
    if norms is not None:
        q_norm, k_norm = norms
        q, k = qk.split_with_sizes((heads, kv_heads), 1)
        qk = torch.cat((rms_norm(q, q_norm, config.rms_norm_eps), rms_norm(k, k_norm, config.rms_norm_eps)), 1)
    # q and k in one go: at one row the cost is the number of operations
    q, k = rotate(qk, cos, sin).split_with_sizes((heads, kv_heads), 1)
    return q, k, v
