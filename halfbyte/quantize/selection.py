"""Which linears become 4-bit, at which group size, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from halfbyte.errors import QuantizeError
from halfbyte.quantize.block import modules
from halfbyte.quantize.options import AUTO_GROUP_SIZES

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.quantize.options import QuantizeOptions

STACKS = ("qkv", "o", "gate_up", "down")


@dataclass(slots=True)
class Selection:
    """kept: of each layer, the stacked linears that stay float; reasons: why, by module name."""

    group_size: int
    kept: list[frozenset[str]]
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def select(config: ModelConfig, options: QuantizeOptions) -> Selection:
    """Choose for a network. Raises QuantizeError, naming the layer and what would do, for what cannot be packed."""
    size = choose_group_size(config, options)
    reasons: dict[str, str] = {}
    if options.indivisible == "skip":
        unfit = {stack: why for stack in STACKS if (why := misfit(config, stack, size))}
        for layer in range(config.num_layers):
            reasons |= {name: why for stack, why in unfit.items() for name in names(config, layer, stack)}
    for pattern in options.skip:
        reasons |= dict.fromkeys(matching(config, pattern), f"--skip {pattern}")
    kept = []
    for layer in range(config.num_layers):
        stacks = {s: names(config, layer, s) for s in STACKS}
        staying = frozenset(s for s, members in stacks.items() if any(m in reasons for m in members))
        for stack in staying:  # loaders join q, k, v and gate, up: they stay float together
            why = next(reasons[m] for m in stacks[stack] if m in reasons)
            for member in stacks[stack]:
                reasons.setdefault(member, f"shares its input with a linear that stays float ({why})")
        kept.append(staying)
    if config.num_layers and all(len(k) == len(STACKS) for k in kept):
        raise QuantizeError("every linear would stay in 16 bits: nothing is left to quantize; give fewer --skip")
    notes = [f"{len(reasons)} linears stay in 16 bits: " + ", ".join(sorted(set(reasons.values())))] if reasons else []
    if options.group_size == "auto":
        notes.append(f"group size {size}: the largest of 128, 64, 32 that divides the inputs of every layer")
    return Selection(size, kept, reasons, notes)


def choose_group_size(config: ModelConfig, options: QuantizeOptions) -> int:
    """The group size to use. Raises QuantizeError unless it divides (or what it does not divide may be skipped)."""
    inputs = {names(config, 0, stack)[0].replace(".0.", ".*."): inputs_of(config, stack) for stack in STACKS}
    skipping = options.indivisible == "skip"
    for layer, outputs in _outputs(config).items():
        if outputs % 8 and not skipping:
            raise QuantizeError(
                f"{layer} has {outputs} outputs; the AWQ container packs 8 a word, so N must divide by 8 "
                "(`halfbyte quantize --indivisible skip` leaves it in 16 bits)"
            )
    possible = [g for g in AUTO_GROUP_SIZES if all(k % g == 0 for k in inputs.values())]
    if options.group_size == "auto":
        if possible:
            return possible[0]
        if skipping:
            return max(AUTO_GROUP_SIZES, key=lambda g: (sum(k % g == 0 for k in inputs.values()), g))
        shapes = ", ".join(f"{layer.rsplit('.', 1)[1]} {k}" for layer, k in inputs.items())
        raise QuantizeError(
            f"none of the group sizes {AUTO_GROUP_SIZES} divides every layer's inputs ({shapes}); `halfbyte "
            f"quantize --indivisible skip` leaves those layers in 16 bits{_padding(options)}"
        )
    size = int(options.group_size)
    if size == -1 or skipping:
        return size
    for layer, k in inputs.items():
        if k % size:
            would = ", ".join(map(str, possible)) or "none of 128, 64, 32"
            raise QuantizeError(
                f"group size {size} does not divide the {k} inputs of {layer}; sizes that would: {would}; "
                f"or `halfbyte quantize --indivisible skip` leaves such layers in 16 bits{_padding(options)}"
            )
    return size


def _padding(options: QuantizeOptions) -> str:
    if options.indivisible == "pad":  # then the MLP is wide enough, and it is another layer that does not fit
        return " (--indivisible pad widens the MLP and nothing else)"
    return ", `--indivisible pad` widens the MLP"


def padded_width(config: ModelConfig, group_size: int | str) -> int:
    """The MLP width, rounded up to whole groups of the size that suits the other layers.

    Only this width can be padded: zero rows of gate and up, and zero columns of down, change nothing.
    """
    others = (config.hidden_size, config.num_heads * config.head_dim)
    if group_size == "auto":
        fitting = [g for g in AUTO_GROUP_SIZES if all(k % g == 0 for k in others)]
        if not fitting:
            raise QuantizeError(
                f"--indivisible pad can only widen the MLP, and none of {AUTO_GROUP_SIZES} divides the hidden size "
                f"{others[0]} and the attention's width {others[1]}; --indivisible skip leaves layers in 16 bits"
            )
        group_size = fitting[0]
    multiple = max(int(group_size), 8) if group_size != -1 else 8
    if multiple % 8:
        multiple *= 8
    return -(-config.intermediate_size // multiple) * multiple


def names(config: ModelConfig, layer: int, stack: str) -> list[str]:
    """Full names of the modules of a stacked linear."""
    return [f"model.layers.{layer}.{module}" for module, _ in modules(config)[stack]]


def inputs_of(config: ModelConfig, stack: str) -> int:
    """Inputs of a stacked linear."""
    widths = {"o": config.num_heads * config.head_dim, "down": config.intermediate_size}
    return widths.get(stack, config.hidden_size)


def misfit(config: ModelConfig, stack: str, group_size: int) -> str | None:
    """Why a stacked linear cannot be packed at a group size, if it cannot."""
    k = inputs_of(config, stack)
    if group_size > 0 and k % group_size:
        return f"{k} inputs are not whole groups of {group_size}"
    odd = next((rows for _, rows in modules(config)[stack] if rows % 8), None)
    return None if odd is None else f"{odd} outputs do not divide by 8"


def matching(config: ModelConfig, pattern: str) -> list[str]:
    """Linears whose full name matches a pattern, or holds it if it has no wildcard. Raises QuantizeError if none."""
    every = [n for layer in range(config.num_layers) for stack in STACKS for n in names(config, layer, stack)]
    wild = any(c in pattern for c in "*?[")
    found = [n for n in every if (fnmatchcase(n, pattern) if wild else pattern in n)]
    if not pattern or not found:
        raise QuantizeError(f"--skip {pattern!r} matches no linear; their names are like {every[0]}, {every[-1]}")
    return found


def _outputs(config: ModelConfig) -> dict[str, int]:
    return {module: rows for stack in STACKS for module, rows in modules(config)[stack]}
