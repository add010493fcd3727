"""One idea of how quantized linears are stored on disk; AWQ, GPTQ and compressed-tensors each are one.

A container is made from settings (to write) or read from a repository's config (to read); it knows the names, shapes
and types of a linear's tensors, packs and unpacks them, and what the config files must say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from halfbyte.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.checkpoint.int4 import IntWeight

PER_CHANNEL = -1  # the group size that means one group for all inputs
Shape = tuple[int, ...]


class Container(Protocol):
    """How a checkpoint's quantized linears are stored. Tensors are known by their suffix: `<prefix>.<suffix>`."""

    @property
    def name(self) -> str:
        """As config.json's quant_method and the commands call it: "awq", "gptq", "compressed-tensors"."""

    @property
    def bits(self) -> int:
        """Bits per weight; the most, if they differ."""

    @property
    def group_size(self) -> int:
        """Inputs that share a scale, or PER_CHANNEL."""

    @property
    def integers(self) -> Mapping[str, tuple[torch.dtype, ...]]:
        """The types that tensors of these suffixes may have; all others are floats."""

    @property
    def optional(self) -> frozenset[str]:
        """Suffixes of tensors that may be absent."""

    def describe(self) -> str:
        """For people: "AWQ gemm, 4 bits, group size 128"."""

    def converts(self, prefix: str) -> bool:
        """Whether the linear of this name is stored quantized."""

    def shapes(self, prefix: str, n: int, k: int) -> dict[str, Shape]:
        """The tensors of an [N, K] linear by suffix. Raises ConfigError, naming it, if it cannot be held."""

    def pack(self, weight: IntWeight) -> dict[str, torch.Tensor]:
        """The tensors of a weight by suffix. Raises OutputError if this container cannot hold it exactly."""

    def unpack(self, prefix: str, tensors: Mapping[str, torch.Tensor], n: int, k: int) -> IntWeight:
        """Read an [N, K] weight back; all tensors have the right shapes. Raises CheckpointError for bad contents."""

    def config_block(self) -> dict[str, Any]:
        """config.json's quantization_config."""

    def json_files(self) -> dict[str, dict[str, Any]]:
        """Other files that loaders look for, by name."""


def resolve(group_size: int, k: int) -> int:
    """The group size for a linear of K inputs."""
    return k if group_size == PER_CHANNEL else group_size


def check_groups(weight: IntWeight, group_size: int) -> None:
    """Raise OutputError unless a weight has as many groups as this size makes."""
    k, found = weight.q.shape[1], weight.s.shape[1]
    wanted = -(-k // resolve(group_size, k))
    if found != wanted:
        raise OutputError(f"its {k} inputs are in {found} groups, but {groups_text(group_size)} makes {wanted}")


def groups_text(group_size: int) -> str:
    """A group size, for people."""
    return "one group a row" if group_size == PER_CHANNEL else f"group size {group_size}"


def checked_group_index(name: str, g_idx: torch.Tensor, groups: int) -> torch.Tensor | None:
    """A group index as int64 [K], or None if it is that of consecutive groups of equal size.

    Raises CheckpointError if it names a group that is not there.
    """
    if (g_idx < 0).any() or (g_idx >= groups).any():
        raise CheckpointError(
            f"{name} names groups {int(g_idx.min())}..{int(g_idx.max())}, of which there are {groups}"
        )
    k = len(g_idx)
    if k % groups == 0 and torch.equal(g_idx.long(), torch.arange(k) // (k // groups)):
        return None
    return g_idx.long()
