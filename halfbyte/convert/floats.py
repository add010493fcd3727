"""fp16 and bf16: a repository of float weights, from any source."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.expected import expected_tensors
from halfbyte.checkpoint.size import weight_count
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.convert.loss import Losses
from halfbyte.convert.request import ConvertReport, Request
from halfbyte.errors import QuantizeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.checkpoint import Checkpoint

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Of a quantized repository: what would make a loader take the floats for something else
NOT_COPIED = {"config.json", "quant_config.json", "quantize_config.json", "quantize_report.json"}


def write_fp16(request: Request) -> ConvertReport:
    """Float16 weights. Raises QuantizeError where a weight is more than float16 can hold."""
    return write_floats(request, "fp16")


def write_bf16(request: Request) -> ConvertReport:
    """Bfloat16 weights."""
    return write_floats(request, "bf16")


def no_settings(name: str, settings: str) -> None:
    """Raise QuantizeError if anything follows the colon."""
    if settings:
        raise QuantizeError(f"{name} takes no settings, and got {settings!r}")


@torch.inference_mode()
def write_floats(request: Request, name: str) -> ConvertReport:
    """Write the repository; shards hold at most `max_shard_size` bytes."""
    no_settings(name, request.settings)
    started = time.perf_counter()
    checkpoint, dtype = request.checkpoint, DTYPES[name]
    writer = RepositoryWriter(
        request.out, max_shard_size=request.options.max_shard_size, overwrite=request.options.overwrite
    )
    writer.check(2 * weight_count(checkpoint.config))
    losses = Losses()
    names = list(expected_tensors(checkpoint.config, None))
    request.progress.start("writing tensors", len(names))
    with writer:
        for done, (tensor_name, tensor) in enumerate(float_tensors(checkpoint), start=1):
            cast = tensor.to(dtype)
            if not cast.isfinite().all():
                largest = float(tensor.abs().max())
                raise QuantizeError(f"{tensor_name} holds {largest:.4g}, more than float16 can (65504); write bf16")
            losses.add(tensor_name, name, tensor, cast, None)
            writer.add(tensor_name, cast)
            request.progress.step(done)
        writer.finish(float_config(checkpoint.source.config, dtype), small_files(checkpoint))
    return ConvertReport(
        source=checkpoint.source.spec,
        out=str(request.out),
        format=name,
        out_bytes=writer.total_size,
        bits_per_weight=8 * writer.total_size / weight_count(checkpoint.config),
        seconds=round(time.perf_counter() - started, 2),
        losses=losses.by_kind(),
    )


def float_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the network under its float name, one at a time; quantized ones as the float32 that they mean."""
    for name in expected_tensors(checkpoint.config, None):
        yield name, float_tensor(checkpoint, name)


def float_tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """One of them."""
    if name in checkpoint.expected:
        return checkpoint.tensor(name)
    weight = checkpoint.linear(name.removesuffix(".weight"))
    return weight if isinstance(weight, torch.Tensor) else weight.dequantize()


def float_config(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """config.json without quantization, saying the type in both spellings' older one."""
    kept = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype", "quantization_config")}
    return {**kept, "torch_dtype": str(dtype).removeprefix("torch.")}


def small_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The source's small files, but for those that speak of its quantization."""
    source = checkpoint.source
    found = {name: source.file(name) for name in source.files() if name not in NOT_COPIED}
    return {name: contents for name, contents in found.items() if contents is not None}
