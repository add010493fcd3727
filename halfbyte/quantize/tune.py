"""Learning all scales and norms together from the float model's predictions.

Rounding block by block cannot see how errors add up through the network. With q and z fixed, the scales are the one
continuous part of the weights (the second phase of EfficientQAT, arXiv:2407.11062): a few hundred thousand numbers of a
small model, changed by Adam to bring the quantized model's next-token distributions nearer to the float model's, in
KL divergence, on the calibration samples. Blocks are walked one at a time, forward and backward, so that memory does
not grow with depth but for one hidden state a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.kernels.reference import after_attention, linear, rms_norm
from halfbyte.models.attend import WholeSequences
from halfbyte.models.network import Block, split_heads
from halfbyte.quantize.block import modules
from halfbyte.quantize.held_out import row_chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.models.rope import Rope
    from halfbyte.quantize.activations import Activations
    from halfbyte.quantize.finished import FinishedBlock

BATCH_TOKENS = 2048
SCALE_RATE = 1e-3  # Adam's step, relative to a scale
NORM_RATE = 3e-4  # relative to a norm's weight
BETAS, EPSILON = (0.9, 0.95), 1e-8
LEARNT_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")


@dataclass(slots=True)
class Frozen:
    """What tuning reads of a block and does not change."""

    steps: dict[str, torch.Tensor]  # of each stacked 4-bit linear: int8 [N, K], q - z
    scales: dict[str, torch.Tensor]  # float32 [N, K / G]
    floats: Block  # its 4-bit linears' weights are empty


class Tuner:
    """Holds what is learnt: per block and stacked linear a factor e^t for each scale, and for each norm weight."""

    def __init__(
        self,
        config: ModelConfig,
        rope: Rope,
        read: Callable[[int], FinishedBlock],
        device: torch.device,
        *,
        resident: bool,
    ) -> None:
        """read: gives a finished block. resident: keep all steps in memory, a byte a weight."""
        self.config, self.rope, self.read, self.device, self.resident = config, rope, read, device, resident
        self.layers = config.num_layers
        self.kept: dict[int, Frozen] = {}
        self.learnt: list[dict[str, torch.Tensor]] = []
        for layer in range(self.layers):
            frozen = self._frozen(layer)
            exponents = {name: torch.zeros_like(scale) for name, scale in frozen.scales.items()}
            exponents |= {
                LEARNT_NORMS[0]: torch.zeros_like(frozen.floats.input_norm),
                LEARNT_NORMS[1]: torch.zeros_like(frozen.floats.after.norm),
            }
            self.learnt.append(exponents)
        self.moments = [[{k: torch.zeros_like(t) for k, t in d.items()} for d in self.learnt] for _ in range(2)]

    def learn(
        self,
        passes: int,
        tokens: torch.Tensor,
        embedding: torch.Tensor,
        teacher: Activations,
        final_norm: torch.Tensor,
        head: torch.Tensor,
        *,
        done: int = 0,
        after_pass: Callable[[int], None],
        after_step: Callable[[int, int], None],
    ) -> None:
        """Go over samples [S, L] `passes` times, `done` of which lie behind.

        teacher: the float model's hidden states behind its last block; embedding, head: [V, D] float.
        """
        at_once = max(1, BATCH_TOKENS // tokens.shape[1])
        batches = -(-len(tokens) // at_once)
        steps = passes * batches
        for number in range(done, passes):
            order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(number)).tolist()
            for i in range(batches):
                batch = sorted(order[i * at_once : (i + 1) * at_once])
                wanted = torch.cat([teacher.read(s, s + 1) for s in batch])
                hidden = embedding[tokens[batch].to(embedding.device)].float().to(self.device)
                gradients = self._gradients(hidden, wanted, final_norm, head)
                step = number * batches + i
                self._update(gradients, step, 0.5 + 0.5 * math.cos(math.pi * step / steps))
                after_step(step + 1, steps)
            after_pass(number + 1)

    def changes(self, layer: int) -> dict[str, torch.Tensor]:
        """What was learnt of a block: scales [K / G, N] as `<module>.scales`, and norms by their names; float16."""
        learnt, frozen = self.learnt[layer], self._frozen(layer)
        changed: dict[str, torch.Tensor] = {}
        for name, parts in modules(self.config).items():
            if name in learnt:
                scales = (frozen.scales[name] * learnt[name].exp()).half().cpu()
                for (module, _), own in zip(parts, scales.split_with_sizes([rows for _, rows in parts]), strict=True):
                    changed[f"{module}.scales"] = own.T.contiguous()
        for name, norm in zip(LEARNT_NORMS, (frozen.floats.input_norm, frozen.floats.after.norm), strict=True):
            changed[name] = (norm * learnt[name].exp()).half().cpu()
        return changed

    def state(self) -> dict[str, torch.Tensor]:
        """All that a pass changes, by name."""
        groups = {"learnt": self.learnt, "first": self.moments[0], "second": self.moments[1]}
        return {
            f"{group}.{layer}.{name}": tensor.cpu()
            for group, blocks in groups.items()
            for layer, tensors in enumerate(blocks)
            for name, tensor in tensors.items()
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Put what `state` gave back."""
        groups = {"learnt": self.learnt, "first": self.moments[0], "second": self.moments[1]}
        for key, tensor in state.items():
            group, layer, name = key.split(".", 2)
            groups[group][int(layer)][name] = tensor.to(self.device)

    def _gradients(
        self, hidden: torch.Tensor, wanted: torch.Tensor, final_norm: torch.Tensor, head: torch.Tensor
    ) -> list[dict[str, torch.Tensor]]:
        """Of the mean KL divergence, for everything that is learnt."""
        entered = []
        with torch.no_grad():
            for layer in range(self.layers):
                entered.append(hidden)
                hidden = self._forward(layer, hidden, self.learnt[layer])
        upstream = self._loss_gradient(hidden, wanted, final_norm, head)
        gradients: list[dict[str, torch.Tensor]] = [{} for _ in range(self.layers)]
        for layer in reversed(range(self.layers)):
            with torch.enable_grad():
                entry = entered.pop().requires_grad_(layer > 0)
                learnt = {name: t.detach().requires_grad_() for name, t in self.learnt[layer].items()}
                out = self._forward(layer, entry, learnt)
            inputs = [*learnt.values(), *([entry] if layer > 0 else [])]
            found = torch.autograd.grad(out, inputs, upstream)
            gradients[layer] = dict(zip(learnt, found, strict=False))
            upstream = found[-1]
        return gradients

    def _loss_gradient(
        self, hidden: torch.Tensor, wanted: torch.Tensor, final_norm: torch.Tensor, head: torch.Tensor
    ) -> torch.Tensor:
        """Of the mean over tokens of KL(float model || this one), for the last hidden states."""
        flat = hidden.flatten(0, 1)
        gradient = torch.empty_like(flat)
        eps = self.config.rms_norm_eps
        for rows in row_chunks(len(flat), head):
            with torch.no_grad():
                target = F.log_softmax(F.linear(rms_norm(wanted.flatten(0, 1)[rows], final_norm, eps), head), -1)
            with torch.enable_grad():
                leaf = flat[rows].detach().requires_grad_()
                ours = F.log_softmax(F.linear(rms_norm(leaf, final_norm, eps), head), -1)
                loss = F.kl_div(ours, target, reduction="sum", log_target=True) / len(flat)
            gradient[rows] = torch.autograd.grad(loss, leaf)[0]
        return gradient.view_as(hidden)

    def _forward(self, layer: int, hidden: torch.Tensor, learnt: dict[str, torch.Tensor]) -> torch.Tensor:
        block = self._block(self._frozen(layer), learnt)
        samples, length, width = hidden.shape
        eps = self.config.rms_norm_eps
        cos, sin = self.rope(torch.arange(length, device=hidden.device).repeat(samples))
        qk_norms = None if block.q_norm is None or block.k_norm is None else (block.q_norm, block.k_norm)
        residual = hidden.view(-1, width)
        x = rms_norm(residual, block.input_norm, eps)
        q, k, v = split_heads(linear(x, block.qkv), self.config, qk_norms, cos, sin)
        attended = WholeSequences(self.config, samples)(layer, q, k, v)
        return after_attention(block.after, attended, residual, eps).view_as(hidden)

    def _block(self, frozen: Frozen, learnt: dict[str, torch.Tensor]) -> Block:
        floats = frozen.floats

        def weight(name: str, w: LinearWeight) -> LinearWeight:
            if name not in frozen.steps:
                return w
            scale = frozen.scales[name] * learnt[name].exp()
            steps = frozen.steps[name].view(*scale.shape, -1)
            return LinearWeight((steps * scale[..., None]).flatten(1), w.bias)

        after = floats.after
        return Block(
            input_norm=floats.input_norm * learnt[LEARNT_NORMS[0]].exp(),
            qkv=weight("qkv", floats.qkv),
            q_norm=floats.q_norm,
            k_norm=floats.k_norm,
            after=AfterAttention(
                weight("o", after.o),
                after.norm * learnt[LEARNT_NORMS[1]].exp(),
                weight("gate_up", after.gate_up),
                weight("down", after.down),
            ),
        )

    def _frozen(self, layer: int) -> Frozen:
        if layer in self.kept:
            return self.kept[layer]
        found = self.read(layer)
        steps, scales = {}, {}
        block = found.block(self.config, self.device)
        for name, parts in modules(self.config).items():
            weights = [found.linears[m] for m, _ in parts if m in found.linears]
            if not weights:
                continue
            size = weights[0].group_size
            steps[name] = torch.cat(
                [(w.q.to(torch.int8) - w.z.to(torch.int8).repeat_interleave(size, 1)) for w in weights]
            ).to(self.device)
            scales[name] = torch.cat([w.s for w in weights]).float().to(self.device)
            block.linears()[name].weight = torch.empty(0)
        frozen = Frozen(steps, scales, block)
        if self.resident:
            self.kept[layer] = frozen
        return frozen

    def _update(self, gradients: list[dict[str, torch.Tensor]], step: int, fraction: float) -> None:
        """Adam (arXiv:1412.6980)."""
        corrections = [1 - beta ** (step + 1) for beta in BETAS]
        for layer, found in enumerate(gradients):
            for name, gradient in found.items():
                first, second = (moments[layer][name] for moments in self.moments)
                first.lerp_(gradient, 1 - BETAS[0])
                second.lerp_(gradient.square(), 1 - BETAS[1])
                rate = (NORM_RATE if name in LEARNT_NORMS else SCALE_RATE) * fraction
                denominator = (second / corrections[1]).sqrt_().add_(EPSILON)
                self.learnt[layer][name].sub_(first / corrections[0] / denominator, alpha=rate)
