"""Importing this lets transformers run AWQ repositories on our layers, on a CPU:

    import halfbyte.integrations.transformers
    model = AutoModelForCausalLM.from_pretrained(REPOSITORY)

It takes the place of transformers' own quantizer for quant_method "awq", which needs gptqmodel; other methods are not
touched, and `unregister` puts the old one back. A model loaded this way is for inference. It cannot be saved: its
weights were repacked, and the repository on disk is the AWQ model. float16, which such a repository's config asks for,
becomes float32 on a CPU, where half precision is slower and not smaller where it matters; bfloat16 stays.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.errors import CheckpointError, ConfigError, IntegrationError, OutputError
from halfbyte.integrations.int4_linear import CONTAINER, Int4Linear
from halfbyte.integrations.thread_hooks import share_threads
from halfbyte.integrations.transformers_parts import AUTO_QUANTIZER_MAPPING, HfQuantizer, TransformersAwqConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

METHOD = "awq"
ON_CPU = ("cpu", "auto", "balanced", "balanced_low_0", "sequential")

log = logging.getLogger(__name__)
_replaced: Any = None


class Int4Quantizer(HfQuantizer):  # type: ignore[misc]
    """What transformers calls around the loading of an AWQ repository."""

    requires_calibration = True

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        """Raises ConfigError for another container or width than we read."""
        super().__init__(quantization_config, **kwargs)
        self.awq = read_settings(quantization_config)
        self.repository = "its repository"

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Raise IntegrationError if the model is to go anywhere but to the CPU."""
        check_device_map(device_map)

    def update_device_map(self, device_map: Any) -> Any:
        """All on the CPU, whatever "auto" would have chosen."""
        return None if device_map is None else {"": "cpu"}

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of all that is not 4-bit: see the module."""
        if dtype != torch.float16:
            return dtype
        log.info("float16 becomes float32: halfbyte's layers run on the CPU, where half precision is slower")
        return torch.float32

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **kwargs: Any) -> None:
        replaced = replace_linears(model, self.awq, set(self.get_modules_to_not_convert(model)))
        check_stored(replaced, checkpoint_files)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from halfbyte.kernels.cpu.pick import cpu_kernels  # noqa: PLC0415  it may have to compile

        self.repository = model.config.name_or_path
        kernels = cpu_kernels()
        for module in model.modules():
            if isinstance(module, Int4Linear):
                module.build(kernels)
        share_threads(model, kernels)
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Raise OutputError: `save_pretrained` has nothing to save that `from_pretrained` could read."""
        raise OutputError(
            f"this model's weights were repacked for this machine and cannot be saved; {self.repository} is the AWQ "
            "model, copy it instead"
        )

    @property
    def is_trainable(self) -> bool:
        """4-bit weights do not train."""
        return False


def register() -> None:
    """Take the place of transformers' AWQ quantizer. Doing it again changes nothing."""
    global _replaced  # noqa: PLW0603  the mapping is transformers' global, so what it held is ours
    if AUTO_QUANTIZER_MAPPING.get(METHOD) is not Int4Quantizer:
        _replaced = AUTO_QUANTIZER_MAPPING.get(METHOD)
        AUTO_QUANTIZER_MAPPING[METHOD] = Int4Quantizer


def unregister() -> None:
    """Put transformers' own AWQ quantizer back."""
    if AUTO_QUANTIZER_MAPPING.get(METHOD) is Int4Quantizer:
        AUTO_QUANTIZER_MAPPING.pop(METHOD)
        if _replaced is not None:
            AUTO_QUANTIZER_MAPPING[METHOD] = _replaced


def read_settings(config: Any) -> AwqConfig:
    """AWQ's settings from transformers' form of them. Raises ConfigError for what our layers cannot run."""
    if not isinstance(config, TransformersAwqConfig):
        raise IntegrationError(f"quantization_config is a {type(config).__name__}, not transformers' AwqConfig")
    version = str(getattr(config.format, "value", config.format))
    if version != "gemm" or config.bits != 4:
        raise ConfigError(
            f"quantization_config: {version} with {config.bits} bits cannot be run by halfbyte, only gemm with 4; "
            "halfbyte.integrations.transformers.unregister() gives it back to transformers"
        )
    return AwqConfig(
        group_size=config.group_size,
        zero_point=config.zero_point,
        modules_to_not_convert=tuple(config.modules_to_not_convert or ()),
    )


def check_device_map(device_map: Any) -> None:
    """Raise IntegrationError unless a device map leaves the model on the CPU."""
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    for place in places:
        if place is not None and str(place) not in ON_CPU:
            raise IntegrationError(
                f"device_map names {place!r}; halfbyte's layers inside transformers run on the CPU, so leave it out "
                "or say 'cpu'"
            )


def replace_linears(model: nn.Module, awq: AwqConfig, untouched: set[str]) -> list[str]:
    """Put an `Int4Linear` in the place of every linear that AWQ converts; returns their names."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    replaced = [(name, module) for name, module in found if name not in untouched and awq.converts(name)]
    for name, module in replaced:
        parent, _, child = name.rpartition(".")
        has_bias = module.bias is not None
        ours = Int4Linear(module.in_features, module.out_features, awq.group_size, has_bias, name)
        setattr(model.get_submodule(parent), child, ours)
    return [name for name, _ in replaced]


def check_stored(names: list[str], checkpoint_files: list[str] | None) -> None:
    """Raise CheckpointError if the files lack a tensor of a 4-bit linear, which transformers would leave as it lies."""
    files = [file for file in checkpoint_files or [] if str(file).endswith(".safetensors")]
    if not files:
        return
    stored = set(_stored_names(files))
    stored |= {name.partition(".")[2] for name in stored}  # a bare model's names lack the first part
    for name in names:
        for part in CONTAINER:
            if f"{name}.{part}" not in stored:
                raise CheckpointError(
                    f"{files[0]}{' and the other shards' * (len(files) > 1)}: {name}.{part} is missing; if that layer "
                    "was not quantized, modules_to_not_convert must name it"
                )


def _stored_names(files: list[str]) -> Iterator[str]:
    from safetensors import safe_open  # noqa: PLC0415  only while loading

    for file in files:
        with safe_open(file, framework="pt") as shard:
            yield from shard.keys()


register()
