"""AutoAWQ's options: none that asks for something is ignored; what has no meaning here raises, with a way out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from halfbyte.errors import ConfigError, QuantizeError
from halfbyte.integrations.transformers import check_device_map

if TYPE_CHECKING:
    from halfbyte.checkpoint.checkpoint import Checkpoint

ON_CPU = "the model runs on the CPU as a whole"
PICKS_ITSELF = "the kernels are chosen by the machine"

# option of from_quantized and from_pretrained: why only its "off" is taken
WITHOUT_MEANING = {
    "use_exllama": PICKS_ITSELF,
    "use_exllama_v2": PICKS_ITSELF,
    "use_ipex": PICKS_ITSELF,
    "use_qbits": PICKS_ITSELF,
    "max_memory": ON_CPU,
    "offload_folder": ON_CPU,
    "quant_filename": "the folder's index says which files hold the weights",
    "download_kwargs": "a revision is written behind the Hub id, org/name@revision; the rest is huggingface_hub's own",
}

# What is so anyway: every network is halfbyte's own code and none of a repository's is run, whoever is trusted; batches
# of any size run, and nothing is set aside for them.
ANYWAY = frozenset({"trust_remote_code", "batch_size"})

# option of quantize: (the values it may have, why no other)
SEARCH_ALL = "the search tries it wherever it helps"
QUANTIZE_OPTIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    "split": (("train",), "the calibration text is taken as it is"),
    "text_column": (("text",), "the calibration text is taken as it is"),
    "duo_scaling": ((True,), SEARCH_ALL),
    "apply_clip": ((True,), SEARCH_ALL),
    "export_compatible": ((False,), "scales are always folded into the weights, so every loader can read them"),
    "n_parallel_calib_samples": ((None,), "memory does not grow with the samples that run at once"),
    "max_chunk_memory": ((None, 1024 * 1024 * 1024), "the search holds no chunks"),
}
QUANT_CONFIG_KEYS = frozenset({
    "zero_point", "q_group_size", "group_size", "w_bit", "bits", "version", "modules_to_not_convert", "quant_method",
})  # fmt: skip
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def refuse(options: dict[str, Any], caller: str) -> None:
    """Raise ConfigError for each option that asks for something that has no meaning here, or that is not known."""
    for name, value in options.items():
        if name == "device_map":
            check_device_map(value)
        elif name in ANYWAY:
            continue
        elif name not in WITHOUT_MEANING:
            raise ConfigError(f"{caller} has no option {name}")
        elif value is not None and value is not False and value != "":
            raise ConfigError(f"{caller}: {name}={value!r} has no meaning here: {WITHOUT_MEANING[name]}; leave it out")


def refuse_quantize(options: dict[str, Any]) -> None:
    """The same for the options of quantize. Raises QuantizeError."""
    for name, value in options.items():
        if name not in QUANTIZE_OPTIONS:
            raise QuantizeError(f"quantize has no option {name}")
        allowed, reason = QUANTIZE_OPTIONS[name]
        if value not in allowed:
            raise QuantizeError(f"quantize: {name}={value!r} is not supported: {reason}; leave it out")


def check_files(checkpoint: Checkpoint, safetensors: bool | None) -> None:
    """Raise ConfigError if the weights are not in the kind of file that is insisted on; None insists on neither."""
    source = checkpoint.source
    is_bin = source.origin("model.embed_tokens.weight").endswith(".bin")
    if safetensors is True and is_bin:
        raise ConfigError(f"{source.spec} has its weights in .bin files; pass safetensors=False to read them")
    if safetensors is False and not is_bin:
        raise ConfigError(f"{source.spec} has its weights in safetensors, which are read first; leave safetensors out")


def group_size_of(quant_config: dict[str, Any]) -> int:
    """The group size that a quant_config asks for. Raises QuantizeError for what our AWQ does not write."""
    if unknown := sorted(quant_config.keys() - QUANT_CONFIG_KEYS):
        raise QuantizeError(f"quant_config: {', '.join(unknown)} is not known; there are {sorted(QUANT_CONFIG_KEYS)}")
    version = quant_config.get("version", "GEMM")
    wanted = {
        "zero_point": (quant_config.get("zero_point", True), True),
        "w_bit": (quant_config.get("w_bit", quant_config.get("bits", 4)), 4),
        "version": (str(version).upper(), "GEMM"),
        "quant_method": (quant_config.get("quant_method", "awq"), "awq"),
        "modules_to_not_convert": (quant_config.get("modules_to_not_convert") or None, None),
    }
    for name, (value, only) in wanted.items():
        if value != only:
            raise QuantizeError(f"quant_config: {name} is {value!r}; only {only!r} is written")
    size = quant_config.get("q_group_size", quant_config.get("group_size", 128))
    if isinstance(size, bool) or not isinstance(size, int):
        raise QuantizeError(f"quant_config: q_group_size is {size!r}; it must be a whole number")
    return size


def shard_bytes(size: str | int) -> int:
    """Bytes of "5GB" (10⁹ a GB), "500MB", "2GiB" or a number of bytes. Raises QuantizeError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(size).strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    count = int(float(match[1]) * unit) if match and unit else 0
    if count < 1:
        raise QuantizeError(f"shard_size is {size!r}; write it as '5GB', '500MB' or a number of bytes")
    return count
