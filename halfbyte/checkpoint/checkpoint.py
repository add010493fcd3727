"""A source whose config, quantization and tensors have been held against each other."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.container import resolve
from halfbyte.checkpoint.containers import read_container
from halfbyte.checkpoint.expected import expected_tensors, layer_of, linear_shapes
from halfbyte.checkpoint.folder import FolderSource
from halfbyte.checkpoint.gguf_integers import gguf_integers, has_gguf_integers
from halfbyte.checkpoint.kernel_form import kernel_form
from halfbyte.checkpoint.part import part_of
from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from halfbyte.checkpoint.container import Container, Shape
    from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
    from halfbyte.checkpoint.source import Source, TensorInfo

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class Verified:
    """One tensor read and found sound; `done` of `total` bytes have been read so far."""

    name: str
    nbytes: int
    done: int
    total: int


class Checkpoint:
    """A model's weights, as its network asks for them.

    Opening it reads headers only and raises ConfigError or CheckpointError if tensors are missing, too many, of the
    wrong shape or of the wrong type. `container` says how quantized linears are stored; None: nothing is quantized.
    """

    def __init__(self, source: Source):
        self.source = source
        self.config: ModelConfig = ModelConfig.from_dict(source.config, source.spec)
        self.container: Container | None = read_container(source)
        self.linears: dict[str, Shape] = linear_shapes(self.config)
        self.required = frozenset(expected_tensors(self.config, None))  # before anything is quantized
        self.expected: dict[str, Shape] = self._expected()
        self.integers = self._integers()
        _check_headers(source, self._infos, self.expected, self.integers, self.config.tie_word_embeddings)
        self._gguf_integers = False
        self._device: torch.device | None = None  # where what is read goes at once

    @property
    def awq(self) -> AwqConfig | None:
        """AWQ's settings, if that is the container."""
        return self.container if isinstance(self.container, AwqConfig) else None

    def tensor(self, name: str) -> torch.Tensor:
        """One float tensor in its stored type. Raises CheckpointError, naming layer and file, unless all is finite."""
        tensor = self._read(name)
        _check_finite(tensor, name, self.source)
        return tensor

    def mapped_apart(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """A tensor that was read before, `whole`, from a mapping of its file that serves nothing else.

        Of a table that is looked up in, only the pages that are looked up then take memory, and these are the file's,
        not the process's own. What is made as it is read, from a GGUF file, is not made again.
        """
        if self.source.folder is None:
            return whole
        self.source.release()
        apart = self._read(name)
        self.source.release()
        return apart

    def linear(self, prefix: str) -> Int4Weight | torch.Tensor:
        """The weight of a linear, [N, K]: as kernels take it if it is stored in 4 bits or fewer, else float.

        A weight whose groups do not follow one another becomes float too; `stored` gives it as it is.
        """
        weight = self.stored(prefix)
        if isinstance(weight, torch.Tensor):
            return weight
        form = kernel_form(weight)
        return weight.dequantize() if form is None or form[1] is not None else form[0]

    def stored(self, prefix: str) -> IntWeight | torch.Tensor:
        """The weight of a linear, [N, K], as its container stores it, or float if it is not quantized."""
        if self.container is None and self._gguf_integers:
            integers = gguf_integers(self.source, f"{prefix}.weight")
            if integers is not None:
                _check_finite(integers.s, f"{prefix}.weight", self.source)
                return integers
        if self.container is None or not self.container.converts(prefix):
            return self.tensor(f"{prefix}.weight")
        n, k = self.linears[prefix]
        names = {suffix: f"{prefix}.{suffix}" for suffix in self.container.shapes(prefix, n, k)}
        tensors = {
            suffix: self._read(name) if name in self.integers else self.tensor(name)
            for suffix, name in names.items()
            if name in self.expected and suffix != "bias"
        }
        try:
            return self.container.unpack(prefix, tensors, n, k)
        except CheckpointError as error:
            raise CheckpointError(f"{self.source.origin(next(iter(names.values())))}: {error}") from None

    def part(self, prefix: str, outputs: range, inputs: range) -> IntWeight | torch.Tensor:
        """Some outputs and inputs of what `stored` gives (see `part_of`).

        Floats and AWQ's gemm in a folder are read in part; anything else is read whole, and cut.
        """
        cuts = self._cuts(prefix, outputs, inputs)
        if cuts is None:
            return part_of(self.stored(prefix), outputs, inputs)
        tensors = {suffix: self._read_part(f"{prefix}.{suffix}", *cut) for suffix, cut in cuts.items()}
        if self.container is None or not self.container.converts(prefix):
            return tensors["weight"]
        try:
            return self.container.unpack(prefix, tensors, len(outputs), len(inputs))
        except CheckpointError as error:
            raise CheckpointError(f"{self.source.origin(f'{prefix}.qweight')}: {error}") from None

    def _cuts(self, prefix: str, outputs: range, inputs: range) -> dict[str, tuple[slice, slice]] | None:
        """The rows and columns of each tensor that a part of a linear lies in, if they can be read by themselves."""
        if not isinstance(self.source, FolderSource):
            return None
        if self.container is None or not self.container.converts(prefix):
            return {"weight": (slice(outputs.start, outputs.stop), slice(inputs.start, inputs.stop))}
        if self.awq is None or self.awq.version != "gemm":
            return None
        size = resolve(self.awq.group_size, self.linears[prefix][1])
        borders = (outputs.start / 8, outputs.stop / 8, inputs.start / size, inputs.stop / size)
        if any(border % 1 for border in borders):  # through a word, or a group
            return None
        words, groups = slice(outputs.start // 8, outputs.stop // 8), slice(inputs.start // size, inputs.stop // size)
        return {
            "qweight": (slice(inputs.start, inputs.stop), words),
            "qzeros": (groups, words),
            "scales": (groups, slice(outputs.start, outputs.stop)),
        }

    def _read_part(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        assert isinstance(self.source, FolderSource)
        tensor = self.source.read_part(name, rows, columns)
        if self._device is not None:
            tensor = tensor.to(self._device)
        if name not in self.integers:
            _check_finite(tensor, name, self.source)
        return tensor

    def for_running(self, device: torch.device | None = None) -> Checkpoint:
        """The same checkpoint, whose `stored` gives GGUF weights of 4 to 8 bits as the integers that they are.

        Whoever changes weights, as a quantizer does, wants them float. device: containers are checked and unpacked
        there, and tensors lie there.
        """
        other = self.on(device)
        other._gguf_integers = True
        return other

    def on(self, device: torch.device | None) -> Checkpoint:
        """The same checkpoint, whose tensors are checked on a device, and lie there."""
        other = copy(self)
        other._device = device
        return other

    @property
    def has_int4(self) -> bool:
        """Whether some linears reach the network as integers."""
        return self.container is not None or (self._gguf_integers and has_gguf_integers(self.source, self.linears))

    def bias(self, prefix: str) -> torch.Tensor | None:
        """The bias of a linear, [N], if it has one."""
        name = f"{prefix}.bias"
        if name not in self.expected:
            return None
        bias = self.tensor(name)
        return bias if name in self.required or bias.any() else None  # zeros that nobody asked for do nothing

    def verify(self) -> Iterator[Verified]:
        """Read every tensor and check its shape, type and finiteness. Raises CheckpointError at the first fault."""
        total, done = sum(self._infos[name].nbytes for name in self.expected), 0
        for name in self.expected:
            self._read(name) if name in self.integers else self.tensor(name)
            nbytes = self._infos[name].nbytes
            done += nbytes
            yield Verified(name, nbytes, done, total)

    def _expected(self) -> dict[str, Shape]:
        """What must be there, and what may be and is."""
        try:
            expected = expected_tensors(self.config, self.container)
        except ConfigError as error:  # sizes that the container cannot hold
            raise ConfigError(f"config.json of {self.source.spec}: {error}") from None
        optional = frozenset() if self.container is None else self.container.optional
        absent = {
            name for name in expected.keys() - self._infos.keys() - self.required if name.rpartition(".")[2] in optional
        }
        return {name: shape for name, shape in expected.items() if name not in absent}

    def _integers(self) -> dict[str, tuple[torch.dtype, ...]]:
        """The tensors that are not float, by name: the types that they may have."""
        types = {} if self.container is None else self.container.integers
        suffixes = {name: name.rpartition(".")[2] for name in self.expected}
        return {name: types[suffix] for name, suffix in suffixes.items() if suffix in types}

    @cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        return self.source.tensors()

    def _read(self, name: str) -> torch.Tensor:
        tensor = self.source.read(name)
        info = self._infos[name]
        if tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
            raise CheckpointError(
                f"{self.source.origin(name)}: {name} was read as {tensor.dtype} {list(tensor.shape)}, but its header "
                f"says {info.dtype} {list(info.shape)}"
            )
        return tensor if self._device is None else tensor.to(self._device)


def _check_headers(
    source: Source,
    found: Mapping[str, TensorInfo],
    expected: Mapping[str, Shape],
    integers: Mapping[str, tuple[torch.dtype, ...]],
    tied: bool,
) -> None:
    """Hold names, shapes and types against what the config asks for; all that is wrong is told at once."""
    missing = [f"{name} {list(shape)} is missing" for name, shape in expected.items() if name not in found]
    extra = [
        f"{name} {list(info.shape)} in {source.origin(name)} is not part of this network"
        for name, info in found.items()
        if name not in expected and not _may_be_there(name, tied)
    ]
    misshapen = [
        f"{name} in {source.origin(name)} has shape {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    mistyped = [
        f"{name} in {source.origin(name)} is {found[name].dtype}, expected {_types_text(integers.get(name))}"
        for name in expected
        if name in found and found[name].dtype not in integers.get(name, FLOATS)
    ]
    faults = missing + misshapen + mistyped + extra
    if not faults:
        return
    more = [f"and {len(faults) - _MOST_LISTED} more"] if len(faults) > _MOST_LISTED else []
    kinds = (("missing", missing), ("of the wrong shape", misshapen), ("of the wrong type", mistyped), ("extra", extra))
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds if names)
    lines = "\n  ".join(faults[:_MOST_LISTED] + more)
    raise CheckpointError(f"{source.spec}: its tensors do not fit its config ({counts}):\n  {lines}")


def _types_text(types: tuple[torch.dtype, ...] | None) -> str:
    return "a float type" if types is None else " or ".join(str(t).removeprefix("torch.") for t in types)


def _may_be_there(name: str, tied: bool) -> bool:
    """What older programs save although it carries nothing: rotary frequencies, and a head tied to the embedding."""
    return name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight")


def _check_finite(tensor: torch.Tensor, name: str, source: Source) -> None:
    if torch.isfinite(tensor).all():
        return
    count = int((~torch.isfinite(tensor)).sum())
    layer = layer_of(name)
    place = name if layer is None else f"{name} (layer {layer})"
    raise CheckpointError(
        f"{source.origin(name)}: {place} has {count} values that are not finite, of {tensor.numel()}; "
        "the weights are damaged or overflowed when they were saved"
    )
