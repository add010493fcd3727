"""One block from float to a few bits: choose scales, fold them into the operation before, clip, round, stage by stage.

The float model's samples walk ahead by one stage; those of the quantized model follow through what is already rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.int4 import IntWeight, concat_rows, rows_of
from halfbyte.errors import QuantizeError
from halfbyte.quantize.awq_search import ScaleChoice, search_scale
from halfbyte.quantize.block import PRODUCER, float_weight, fold_scale, groups_of, modules, shared_value_channels
from halfbyte.quantize.clip_search import search_ranges
from halfbyte.quantize.follow import followed
from halfbyte.quantize.gptq import ColumnRounding
from halfbyte.quantize.product import add_products
from halfbyte.quantize.published import as_published
from halfbyte.quantize.report import LayerReport
from halfbyte.quantize.rounding import ASYMMETRIC_4, Levels, quantize_weight, ranges, rounding_error
from halfbyte.quantize.statistics import InputStatistics, output_error
from halfbyte.quantize.stream import Stream, micro_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from halfbyte.kernels.interface import LinearWeight
    from halfbyte.models.network import Block
    from halfbyte.quantize.activations import ActivationStore
    from halfbyte.quantize.effort import Recipe

ROUNDED_AT_ONCE = 2**24  # weights in float32 whose copies are held at once
ON_A_GPU = 2**27  # the same there: it takes many rows to fill one
REPORTED_ROWS = 256  # of a linear, evenly spaced, that the report's errors are of


@dataclass(slots=True)
class QuantizedLinear:
    """A linear by its module name within the block and its quantized weight."""

    name: str
    weight: IntWeight
    report: LayerReport


@dataclass(slots=True)
class Samples:
    """`calibration` samples, then `held_out` ones that nothing is learnt from."""

    calibration: int
    held_out: int
    length: int
    device: str = "cpu"  # the type of the one that they are worked on

    def parts(self, *, learnt_from: bool = True, held_out: bool = True) -> Iterable[slice]:
        """Micro-batches, of which none holds both kinds."""
        if learnt_from:
            yield from micro_batches(0, self.calibration, self.length, self.device)
        if held_out:
            yield from micro_batches(self.calibration, self.calibration + self.held_out, self.length, self.device)


class BlockQuantizer:
    """Quantizes blocks in their order while the samples of both streams go through them."""

    def __init__(
        self,
        plain: Stream,
        rounded: Stream,
        samples: Samples,
        store: ActivationStore,
        recipe: Recipe,
        group_size: int,
        levels: Levels = ASYMMETRIC_4,
        *,
        act_order: bool = False,
    ) -> None:
        """plain: the float model's stream; rounded: the quantized one's. group_size -1 is one group a row.

        act_order: groups are of inputs of like activity instead of neighbours.
        """
        self.levels, self.act_order = levels, act_order
        self.plain, self.rounded, self.samples, self.store = plain, rounded, samples, store
        self.recipe, self.group_size = recipe, group_size
        self.config = plain.config
        self.modules = modules(self.config)
        self.slots = {"o": shared_value_channels(self.config).to(store.device)}

    def run(self, layer: int, source: Block, block: Block, kept: frozenset[str]) -> list[QuantizedLinear]:
        """Quantize `block`, a copy of `source`; both streams are behind it afterwards.

        kept: the stacked linears that stay float. `block` is left as a reader of the published files will see it.
        """
        self.layer, self.source, self.block, self.kept = layer, source, block, kept
        done: list[QuantizedLinear] = []
        heads = self.config.num_heads * self.config.head_dim
        attended = [self.store.new(heads), self.store.new(heads)]
        done += self._stage("qkv", "o", attended)
        for stream, b, values in ((self.plain, source, attended[0]), (self.rounded, block, attended[1])):
            for part in self._parts(stream):
                stream.add_attended(b, part, values.read(part.start, part.stop).flatten(0, 1))
        for values in attended:
            values.close()
        activated = [self.store.new(self.config.intermediate_size), self.store.new(self.config.intermediate_size)]
        done += self._stage("gate_up", "down", activated)
        for stream, b, values in ((self.plain, source, activated[0]), (self.rounded, block, activated[1])):
            for part in self._parts(stream):
                stream.add_activated(b, part, values.read(part.start, part.stop).flatten(0, 1))
            stream.check(layer)
        for values in activated:
            values.close()
        return done

    def replay(self, layer: int, source: Block, block: Block) -> None:
        """Take both streams through a block that was quantized before, to the same bits as `run` leaves them."""
        for stream, b in ((self.plain, source), (self.rounded, block)):
            for part in self._parts(stream):
                stream.through(b, layer, part)
            stream.check(layer)

    def _parts(self, stream: Stream) -> Iterable[slice]:
        """What a stream needs to carry: without `follow`, the quantized one only shows the final error."""
        return self.samples.parts(learnt_from=stream is self.plain or self.recipe.follow)

    def _stage(self, first: str, second: str, between: list) -> list[QuantizedLinear]:  # type: ignore[type-arg]
        """Quantize two linears, the second of which reads what comes of the first; `between` holds its inputs."""
        plain, rounded = between
        width = {name: float_weight(w).shape[1] for name, w in self.block.linears().items()}
        stats = {name: InputStatistics.empty(width[name], self.store.device) for name in (first, second)}
        for part in self._parts(self.plain):
            x = self._input(self.plain, first, part)
            out = self._output(self.plain, first, x, part)
            plain.write(part.start, out.view(-1, self.samples.length, width[second]))
            if part.start < self.samples.calibration:
                stats[first].add(x)
                stats[second].add(out)
        self._finish(first, stats[first], lambda part: self._input(self.plain, first, part))
        self._finish(second, stats[second], lambda part: plain.read(part.start, part.stop))
        choices = {name: self._scale(name, stats[name]) for name in (first, second)}
        for name, choice in choices.items():
            stats[name].rescale(choice.scale)
        done = self._quantized(first, choices[first], stats.pop(first), None)
        for part in self._parts(self.rounded):
            out = self._output(self.rounded, first, self._input(self.rounded, first, part), part)
            rounded.write(part.start, out.view(-1, self.samples.length, width[second]))
        return done + self._quantized(second, choices[second], stats.pop(second), between)

    def _input(self, stream: Stream, name: str, part: slice) -> torch.Tensor:
        block = self.source if stream is self.plain else self.block
        return stream.qkv_input(block, part) if name == "qkv" else stream.mlp_input(block, part)

    def _output(self, stream: Stream, name: str, x: torch.Tensor, part: slice) -> torch.Tensor:
        block = self.source if stream is self.plain else self.block
        return stream.attend(block, self.layer, x, part) if name == "qkv" else stream.activate(block, x)

    def _finish(self, name: str, stats: InputStatistics, inputs: Callable[[slice], torch.Tensor]) -> None:
        """To be called behind the last input. Raises QuantizeError if their squares do not fit float32."""
        stats.finish()
        if stats.H.diagonal().isfinite().all():
            return
        largest = [
            inputs(slice(sample, sample + 1)).abs().max().nan_to_num(float("inf")).item()
            for sample in range(self.samples.calibration)
        ]
        raise QuantizeError(
            f"model.layers.{self.layer}.{self.modules[name][0][0]}: its inputs go up to {max(largest):.3g}, for "
            f"calibration sample {largest.index(max(largest))}, and the sum of their squares overflows float32; the "
            "weights before it are damaged (halfbyte inspect --verify tells)"
        )

    def _scale(self, name: str, stats: InputStatistics) -> ScaleChoice:
        """Choose a linear's scale and fold it in."""
        w = self.block.linears()[name]
        weight, producer = float_weight(w), PRODUCER.get(name)
        if not self.recipe.scale or name in self.kept or producer in self.kept:
            choice = ScaleChoice(torch.ones_like(weight[0]), "none", 0.0, 0.0, 0.0)
        else:
            choice = search_scale(weight, stats, groups_of(w, self.group_size), self.slots.get(name), self.levels)
            fold_scale(self.block, name, choice.scale, self.config)
        prefix = f"model.layers.{self.layer}"
        if name == "qkv":
            self.block.input_norm = as_published(self.block.input_norm, f"{prefix}.input_layernorm.weight")
        elif name == "gate_up":
            self.block.after.norm = as_published(self.block.after.norm, f"{prefix}.post_attention_layernorm.weight")
        return choice

    def _quantized(
        self,
        name: str,
        choice: ScaleChoice,
        stats: InputStatistics,
        inputs: list | None,  # type: ignore[type-arg]
    ) -> list[QuantizedLinear]:
        """Clip and round the linears that share an input; afterwards the block holds what they became."""
        w = self.block.linears()[name]
        self._publish_bias(name, w)
        weight = float_weight(w)
        if name in self.kept:
            w.weight = as_published(weight, f"model.layers.{self.layer}.{self.modules[name][0][0]}.weight")
            return []
        aim = weight
        if self.recipe.follow:
            aim = followed(weight, *self._seen(name, choice.scale, inputs))
        rounded = self._round(aim, stats.H, groups_of(w, self.group_size))
        done = self._parts_of(name, choice, rounded, aim, weight, stats.H)
        for part in row_chunks(weight):
            weight[part] = rows_of(rounded, part).dequantize()
        return done

    def _seen(self, name: str, scale: torch.Tensor, inputs: list | None) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[type-arg]
        """D and Ĥ [K, K] of `followed`: of what a linear receives behind the quantized layers.

        inputs: both streams', if they were kept.
        """
        stats = InputStatistics.empty(len(scale), self.store.device)
        difference = torch.zeros_like(stats.H)

        def read(stream: Stream, part: slice) -> torch.Tensor:
            if inputs is None:
                return self._input(stream, name, part)
            values: torch.Tensor = inputs[stream is self.rounded].read(part.start, part.stop)
            return values.flatten(0, 1)

        for part in self.samples.parts(held_out=False):
            y = read(self.rounded, part)
            stats.add(y)
            add_products(difference, read(self.plain, part) / scale - y, y)
        self._finish(name, stats, lambda part: read(self.rounded, part))
        return difference, stats.H

    def _round(self, aim: torch.Tensor, H: torch.Tensor, size: int) -> IntWeight:
        """`aim` rounded."""
        if self.act_order and size < aim.shape[1]:
            order = H.diagonal().argsort(descending=True, stable=True)
            ordered = self._round_groups(aim[:, order], H[order[:, None], order], size)
            place = order.argsort()
            return IntWeight(ordered.q[:, place], ordered.s, ordered.z, ordered.bits, place // size)
        return self._round_groups(aim, H, size)

    def _round_groups(self, aim: torch.Tensor, H: torch.Tensor, size: int) -> IntWeight:
        """The same with groups of neighbours."""
        levels = self.levels
        rounding = ColumnRounding(H) if self.recipe.compensate else None
        pieces = []
        for part in row_chunks(aim):
            rows = aim[part]
            low, high = search_ranges(rows, H, size, levels) if self.recipe.clip else ranges(rows, size)
            pieces.append(
                rounding.round(rows, low, high, levels) if rounding else quantize_weight(rows, low, high, levels)
            )
        return concat_rows(pieces)

    def _parts_of(
        self,
        name: str,
        choice: ScaleChoice,
        rounded: IntWeight,
        aim: torch.Tensor,
        weight: torch.Tensor,
        H: torch.Tensor,
    ) -> list[QuantizedLinear]:
        """The stacked linears one by one, each with its report."""
        done, begin = [], 0
        for module, count in self.modules[name]:
            some = slice(begin, begin + count, -(-count // REPORTED_ROWS))
            power, plain, after = self._errors(rounded, aim, weight, choice.scale, H, some)
            report = LayerReport(
                name=f"model.layers.{self.layer}.{module}",
                inputs=rounded.q.shape[1],
                outputs=count,
                formula=choice.formula,
                ratio=round(choice.ratio, 4),
                error_before=plain / max(power, 1e-30),
                error_after=after / max(power, 1e-30),
            )
            done.append(QuantizedLinear(module, rows_of(rounded, slice(begin, begin + count)), report))
            begin += count
        return done

    def _errors(
        self,
        rounded: IntWeight,
        aim: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,
        H: torch.Tensor,
        rows: slice,
    ) -> list[float]:
        """Of some outputs their square, and the squared errors of plain rounding and of this one."""
        unscaled, wanted = weight[rows] / scale, aim[rows]
        size = unscaled.shape[1] // rounded.s.shape[1]
        plain = rounding_error(unscaled, *ranges(unscaled, size), self.levels).mul_(scale)
        deltas = (wanted, plain, rows_of(rounded, rows).dequantize() - wanted)
        found: list[float] = torch.stack([output_error(delta, H) for delta in deltas]).tolist()
        return found

    def _publish_bias(self, name: str, w: LinearWeight) -> None:
        if w.bias is not None:
            w.bias = as_published(w.bias, f"model.layers.{self.layer}.{self.modules[name][0][0]}.bias")


def row_chunks(weight: torch.Tensor) -> Iterator[slice]:
    """Rows whose float32 copies may be held at once."""
    at_once = max(1, (ON_A_GPU if weight.is_cuda else ROUNDED_AT_ONCE) // weight.shape[1])
    for begin in range(0, weight.shape[0], at_once):
        yield slice(begin, begin + at_once)
