"""Which container a repository's weights are in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.checkpoint.compressed_tensors import NAME as COMPRESSED_TENSORS
from halfbyte.checkpoint.compressed_tensors import CompressedTensorsConfig, Scheme, read_compressed_tensors
from halfbyte.checkpoint.fields import Fields
from halfbyte.checkpoint.gptq import NAME as GPTQ
from halfbyte.checkpoint.gptq import V2, GptqConfig
from halfbyte.checkpoint.gptq_config import FILE as GPTQ_FILE
from halfbyte.checkpoint.gptq_config import read_gptq
from halfbyte.checkpoint.quant_config import AwqConfig, read_awq
from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from halfbyte.checkpoint.container import Container
    from halfbyte.checkpoint.source import Source

METHODS = ("awq", GPTQ, COMPRESSED_TENSORS)  # quant_method of what can be read
FORMATS = ("awq", GPTQ, V2, COMPRESSED_TENSORS)  # what 4-bit weights can be written as

# Where a repository says how its weights are quantized: a repository made from another must not inherit these.
CONFIG_FILES = frozenset({"config.json", "quant_config.json", "quantize_config.json"})


def new_container(
    fmt: str,
    group_size: int,
    kept: tuple[str, ...] = (),
    *,
    bits: int = 4,
    sym: bool = False,
    act_order: bool = False,
) -> Container:
    """A container to write weights in; `kept` names linears that are not quantized.

    bits, sym and act_order are GPTQ's; the others hold 4 bits with zero points. Raises ConfigError unless it is one of
    FORMATS.
    """
    if fmt == "awq":
        return AwqConfig(group_size=group_size, modules_to_not_convert=kept)
    if fmt in (GPTQ, V2):
        if kept:
            raise ConfigError(f"format {fmt} has no way to say that linears stay in 16 bits ({', '.join(kept[:3])})")
        return GptqConfig(bits, group_size, act_order, sym, checkpoint_format=fmt)
    if fmt == COMPRESSED_TENSORS:
        return CompressedTensorsConfig((Scheme(group_size=group_size),), ("lm_head", *kept))
    raise ConfigError(f"format {fmt!r} cannot be written; there are {', '.join(FORMATS)}")


def read_container(source: Source) -> Container | None:
    """The container of a source, or None if it is not quantized.

    Raises ConfigError for a method that is not known, and for settings of a known one that cannot be read.
    """
    block = Fields(source.config, f"config.json of {source.spec}").object("quantization_config")
    method = None if block is None else block.values.get("quant_method")
    if block is not None and method == COMPRESSED_TENSORS:
        return read_compressed_tensors(block)
    if method == GPTQ or (block is None and source.file(GPTQ_FILE) is not None):
        return read_gptq(source, block)
    return read_awq(source)
