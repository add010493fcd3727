"""From one container to another without rounding anything: AWQ, GPTQ and compressed-tensors hold the same (q, z, s)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.compressed_tensors import NAME as COMPRESSED_TENSORS
from halfbyte.checkpoint.compressed_tensors import CompressedTensorsConfig, Scheme
from halfbyte.checkpoint.containers import CONFIG_FILES
from halfbyte.checkpoint.expected import expected_tensors
from halfbyte.checkpoint.gptq import NAME as GPTQ
from halfbyte.checkpoint.gptq import GptqConfig
from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.checkpoint.writer import json_bytes
from halfbyte.errors import OutputError

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.container import Container
    from halfbyte.checkpoint.writer import RepositoryWriter

NOT_COPIED = CONFIG_FILES | {".gitattributes"}


def repack(checkpoint: Checkpoint, container: Container, writer: RepositoryWriter) -> None:
    """Write a quantized checkpoint in another container; `writer` has been entered.

    Every weight is the same afterwards, to the bit. Raises OutputError, naming the linear, for the first that the
    container cannot hold, and if the checkpoint is not quantized: see `container_like` for one that fits.
    """
    if checkpoint.container is None:
        raise OutputError(f"{checkpoint.source.spec} is not quantized; halfbyte quantize does that")
    for name in expected_tensors(checkpoint.config, None):
        prefix, _, suffix = name.rpartition(".")
        if suffix != "bias":  # a linear's is written with it, for GPTQ may have added one
            _write(checkpoint, name, prefix, container, writer)
    files = {name: checkpoint.source.file(name) for name in checkpoint.source.files() if name not in NOT_COPIED}
    small = {name: contents for name, contents in files.items() if contents is not None}
    small |= {name: json_bytes(contents) for name, contents in container.json_files().items()}
    writer.finish(_config(checkpoint, container), small)


def container_like(checkpoint: Checkpoint, name: str, *, version: str | None = None) -> Container:
    """A container called `name` ("awq", "gptq", "compressed-tensors") with the settings of a checkpoint's own.

    version: checkpoint_format for gptq. Raises OutputError for a name that is not known.
    """
    own = checkpoint.container
    if own is None:
        raise OutputError(f"{checkpoint.source.spec} is not quantized; halfbyte quantize does that")
    kept = tuple(prefix for prefix in checkpoint.linears if not own.converts(prefix))
    ordered = (isinstance(own, GptqConfig) and own.desc_act) or (
        isinstance(own, CompressedTensorsConfig) and any(scheme.ordered for scheme in own.schemes)
    )
    symmetric = is_symmetric(own)
    if name == "awq":
        return AwqConfig(group_size=own.group_size, modules_to_not_convert=kept)
    if name == GPTQ:
        form = version or GPTQ
        return GptqConfig(
            own.bits, own.group_size, ordered, symmetric, checkpoint_format=form, float_modules=frozenset(kept)
        )
    if name == COMPRESSED_TENSORS:
        scheme = Scheme(own.bits, own.group_size, symmetric=symmetric, ordered=ordered)
        return CompressedTensorsConfig((scheme,), ("lm_head", *kept))
    raise OutputError(f"there is no container called {name!r}; there are awq, {GPTQ} and {COMPRESSED_TENSORS}")


def is_symmetric(container: Container) -> bool:
    """Whether every zero point is in the middle of the levels, as the container itself says."""
    if isinstance(container, CompressedTensorsConfig):
        return all(scheme.symmetric for scheme in container.schemes)
    return isinstance(container, GptqConfig) and container.sym


def _write(checkpoint: Checkpoint, name: str, prefix: str, container: Container, writer: RepositoryWriter) -> None:
    if prefix not in checkpoint.linears:
        writer.add(name, checkpoint.tensor(name))
        return
    weight = checkpoint.stored(prefix)
    if isinstance(weight, torch.Tensor):
        writer.add(name, weight)
    else:
        try:
            packed = container.pack(weight)
        except OutputError as error:
            raise OutputError(f"{prefix}: {error}") from None
        for suffix, tensor in packed.items():
            writer.add(f"{prefix}.{suffix}", tensor)
    if (bias := checkpoint.bias(prefix)) is not None:
        if f"{prefix}.bias" not in checkpoint.required and "bias" not in container.optional:
            raise OutputError(f"{prefix}: it has a bias, which this network has not and only GPTQ's loaders take")
        writer.add(f"{prefix}.bias", bias)


def _config(checkpoint: Checkpoint, container: Container) -> dict[str, Any]:
    return {**checkpoint.source.config, "quantization_config": container.config_block()}
