"""AutoAWQ's class, on our quantizer and our network: its users change one import.

from halfbyte import AutoAWQForCausalLM
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import config_json_block
from halfbyte.errors import ConfigError, HalfbyteError
from halfbyte.integrations import transformers as our_layers
from halfbyte.integrations import without_cuda
from halfbyte.integrations.awq_options import check_files, refuse
from halfbyte.integrations.fused_model import load_fused, transformers_config
from halfbyte.integrations.model_to_quantize import ModelToQuantize
from halfbyte.integrations.transformers_parts import AutoModelForCausalLM

if TYPE_CHECKING:
    from pathlib import Path


class AutoAWQForCausalLM:
    """Loads models to run (`from_quantized`) or to quantize (`from_pretrained`)."""

    def __init__(self) -> None:
        raise HalfbyteError("use AutoAWQForCausalLM.from_quantized(path) or AutoAWQForCausalLM.from_pretrained(path)")

    @classmethod
    def from_quantized(
        cls,
        quant_path: str | Path,
        *,
        fuse_layers: bool = True,
        safetensors: bool | None = None,
        max_seq_len: int | None = None,
        max_new_tokens: int | None = None,
        **others: Any,
    ) -> Any:
        """Load an AWQ repository (a folder or a Hub id) as a transformers model with `generate`.

        fuse_layers: run halfbyte's own network, which is quicker; False runs transformers' network on our 4-bit
        linears. max_seq_len: most tokens of prompt and answer together (max_new_tokens is its name in the first
        AutoAWQ). safetensors: True or False insist on that kind of file. AutoAWQ's other options are known, and raise
        ConfigError if they ask for what is not so anyway. Without CUDA `tensor.cuda()` is made harmless: see
        `without_cuda`.
        """
        refuse(others, "from_quantized")
        if max_seq_len is not None and max_new_tokens is not None:
            raise ConfigError("max_new_tokens is an old name of max_seq_len; give one of them")
        context = max_new_tokens if max_seq_len is None else max_seq_len
        checkpoint = Checkpoint(open_source(quant_path))
        if checkpoint.awq is None:
            raise ConfigError(
                f"{quant_path} is not an AWQ repository; make one with from_pretrained, quantize and save_quantized"
            )
        check_files(checkpoint, safetensors)
        model = load_fused(checkpoint, context) if fuse_layers else load_unfused(checkpoint, context)
        without_cuda.install()
        return model

    @classmethod
    def from_pretrained(
        cls,
        model_path: str | Path,
        *,
        safetensors: bool | None = None,
        use_cache: bool = True,
        low_cpu_mem_usage: bool = True,
        torch_dtype: Any = "auto",
        **others: Any,
    ) -> ModelToQuantize:
        """Open an unquantized model (any source that `halfbyte.open_source` takes), to quantize it.

        use_cache is what its `generate` does. Tensors are read one at a time in their stored type, so
        low_cpu_mem_usage=False and another torch_dtype than "auto" raise ConfigError.
        """
        refuse(others, "from_pretrained")
        if not low_cpu_mem_usage:
            raise ConfigError("from_pretrained: low_cpu_mem_usage=False has no meaning: layers are read one at a time")
        if torch_dtype not in (None, "auto"):
            raise ConfigError(f"from_pretrained: torch_dtype={torch_dtype!r}: weights are read as stored; leave it out")
        checkpoint = Checkpoint(open_source(model_path))
        if checkpoint.container is not None:
            raise ConfigError(f"{model_path} is already quantized; from_quantized runs it")
        check_files(checkpoint, safetensors)
        return ModelToQuantize(checkpoint, use_cache)


def load_unfused(checkpoint: Checkpoint, max_seq_len: int | None) -> Any:
    """transformers' own network on our linears, whichever of the two files says that the repository is AWQ."""
    if max_seq_len is not None:
        raise ConfigError("max_seq_len bounds the fused network; with fuse_layers=False give generate a max_length")
    folder = checkpoint.source.folder
    assert folder is not None, "AWQ is read from folders and from the Hub's cache, which is one"
    assert checkpoint.awq is not None
    our_layers.register()
    config = transformers_config(checkpoint.source)
    config.quantization_config = config_json_block(checkpoint.awq)
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
