"""How a checkpoint says that it is GPTQ: in config.json, in quantize_config.json, or in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.checkpoint.container import PER_CHANNEL
from halfbyte.checkpoint.fields import Fields, parse_json_object
from halfbyte.checkpoint.gptq import BITS, NAME, V1, V2, GptqConfig
from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source

FILE = "quantize_config.json"


def read_gptq(source: Source, block: Fields | None) -> GptqConfig:
    """Read the settings; `block` is config.json's quantization_config, None if it has none.

    Which linears are quantized is seen by their tensors. Raises ConfigError for settings that cannot be read, and if
    the two files contradict each other.
    """
    contents = source.file(FILE)
    where = f"{FILE} of {source.spec}"
    own = None if contents is None else Fields(parse_json_object(contents, where), where)
    names = frozenset(name.removesuffix(".weight") for name in source.tensors() if name.endswith(".weight"))
    configs = [_parse(fields, names) for fields in (block, own) if fields is not None]
    if len(configs) == 2 and _core(configs[0]) != _core(configs[1]):
        raise ConfigError(f"{where} and quantization_config in config.json contradict each other; correct one of them")
    return configs[0]


def _core(config: GptqConfig) -> tuple[int, int]:
    return config.bits, config.group_size


def _parse(fields: Fields, float_modules: frozenset[str]) -> GptqConfig:
    _check_supported(fields)
    bits = fields.integer("bits")
    if bits not in BITS:
        raise fields.fail("bits", f"is {bits}, which cannot be read; GPTQ with {', '.join(map(str, BITS))} can")
    group_size = fields.integer("group_size", 128, least=PER_CHANNEL)
    if group_size == 0:
        raise fields.fail("group_size", "must be positive, or -1 for one group per output channel; found 0")
    checkpoint_format = _checkpoint_format(fields)
    return GptqConfig(
        bits=bits,
        group_size=group_size,
        desc_act=fields.boolean("desc_act", False),
        sym=fields.boolean("sym", True),
        checkpoint_format=checkpoint_format,
        damp_percent=fields.optional_number("damp_percent", above=None),
        true_sequential=fields.boolean("true_sequential", True),
        float_modules=float_modules,
        borrowed=checkpoint_format == V1 and bits != 3 and _by_gptqmodel(fields),  # it takes 3 bits one by one too
    )


def _check_supported(fields: Fields) -> None:
    for name in ("quant_method", "method"):
        if fields.has(name) and fields.string(name) != NAME:
            raise fields.fail(name, f"is {fields.string(name)!r}; it must be {NAME!r}")
    if fields.boolean("is_marlin_format", False):
        raise fields.fail("is_marlin_format", "is true; weights repacked for marlin cannot be read")
    if fields.boolean("lm_head", False):
        raise fields.fail("lm_head", "is true; a quantized output embedding is not supported")
    if fields.string("pack_dtype", "int32") != "int32":
        raise fields.fail("pack_dtype", f"is {fields.string('pack_dtype')!r}; only int32 can be read")
    dynamic = fields.object("dynamic")
    if changed := [rule for rule in (dynamic.values if dynamic else {}) if not rule.startswith("-:")]:
        raise fields.fail("dynamic", f"has settings of its own for {changed[0]!r}, which cannot be read")


def _checkpoint_format(fields: Fields) -> str:
    name = next((name for name in ("checkpoint_format", "format") if fields.has(name)), None)
    found = V1 if name is None else fields.string(name)
    if found not in (V1, V2):
        raise fields.fail(str(name), f"is {found!r}, which cannot be read; {V1} and {V2} can")
    return found


def _by_gptqmodel(fields: Fields) -> bool:
    meta = fields.object("meta")
    found = [] if meta is None else meta.values.get("quantizer")
    return any("gptqmodel" in str(q).lower() for q in (found if isinstance(found, list) else [found]))
