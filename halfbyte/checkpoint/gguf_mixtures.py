"""Which type each tensor of a GGUF file gets: llama.cpp's mixtures, as facts.

A mixture has a type for most matrices and gives more bits to those whose error hurts most: attention's values, the
MLP's down projection, the output. The rules are those of llama.cpp's `llama-quantize` (src/llama-quant.cpp, as in
llama-cpp-python 0.3.36) for networks without experts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from halfbyte.errors import QuantizeError

if TYPE_CHECKING:
    from collections.abc import Callable

_T, _F = GGMLQuantizationType, LlamaFileType

# name in a SPEC -> the type of most matrices, and the number that `general.file_type` says
MIXTURES: dict[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "F32": (_T.F32, _F.ALL_F32),
    "F16": (_T.F16, _F.MOSTLY_F16),
    "BF16": (_T.BF16, _F.MOSTLY_BF16),
    "Q8_0": (_T.Q8_0, _F.MOSTLY_Q8_0),
    "Q6_K": (_T.Q6_K, _F.MOSTLY_Q6_K),
    "Q5_K_M": (_T.Q5_K, _F.MOSTLY_Q5_K_M),
    "Q5_K_S": (_T.Q5_K, _F.MOSTLY_Q5_K_S),
    "Q5_1": (_T.Q5_1, _F.MOSTLY_Q5_1),
    "Q5_0": (_T.Q5_0, _F.MOSTLY_Q5_0),
    "Q4_K_M": (_T.Q4_K, _F.MOSTLY_Q4_K_M),
    "Q4_K_S": (_T.Q4_K, _F.MOSTLY_Q4_K_S),
    "Q4_1": (_T.Q4_1, _F.MOSTLY_Q4_1),
    "Q4_0": (_T.Q4_0, _F.MOSTLY_Q4_0),
    "Q3_K_L": (_T.Q3_K, _F.MOSTLY_Q3_K_L),
    "Q3_K_M": (_T.Q3_K, _F.MOSTLY_Q3_K_M),
    "Q3_K_S": (_T.Q3_K, _F.MOSTLY_Q3_K_S),
    "Q2_K": (_T.Q2_K, _F.MOSTLY_Q2_K),
}
SYNONYMS = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}
_FLOATS = frozenset({_T.F32, _T.F16, _T.BF16})
_FALLBACK = {_T.Q2_K: _T.Q4_0, _T.Q3_K: _T.Q4_0, _T.Q4_K: _T.Q5_0, _T.Q5_K: _T.Q5_1, _T.Q6_K: _T.Q8_0}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


class Network(NamedTuple):
    """What the rules ask of a network. `importance`: whether the channels' importance is known."""

    layers: int
    heads: int
    kv_heads: int
    tied: bool
    importance: bool = False

    @property
    def shares_values(self) -> bool:
        """Four or more query heads read one value head: its matrix is small, and many outputs hang on it."""
        return self.heads // self.kv_heads >= 4

    def gets_more(self, layer: int) -> bool:
        """The first and last eighth of the layers, and every third between."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


class Choice(NamedTuple):
    """A tensor's type; `wanted` is another if that did not divide its rows."""

    type: GGMLQuantizationType
    wanted: GGMLQuantizationType


def mixture_name(name: str) -> str:
    """The mixture that a user names, in any case. Raises QuantizeError listing them."""
    upper = name.upper()
    upper = SYNONYMS.get(upper, upper)
    if upper not in MIXTURES:
        raise QuantizeError(f"gguf:{name} is not a type that can be written; those that can: {', '.join(MIXTURES)}")
    return upper


def choose_type(mixture: str, tensor: str, shape: tuple[int, ...], network: Network) -> Choice:
    """The type of a tensor, by its GGUF name. Norms and biases stay float32."""
    base = MIXTURES[mixture][0]
    if len(shape) < 2 or not tensor.endswith(".weight") or "_norm." in tensor:
        return Choice(_T.F32, _T.F32)
    if base in _FLOATS:
        return Choice(base, base)
    if tensor == "output.weight" or (tensor == "token_embd.weight" and network.tied):
        wanted = _output_type(base, shape[-1])
    else:
        match = _LAYER.fullmatch(tensor)
        rule = _RULES.get(match[2]) if match else None
        wanted = (rule(mixture, int(match[1]), network) if match and rule else None) or base
    return Choice(_fitting(wanted, shape[-1]), wanted)


def _output_type(base: GGMLQuantizationType, inputs: int) -> GGMLQuantizationType:
    return _T.Q8_0 if base is _T.Q8_0 or inputs % GGML_QUANT_SIZES[base][0] else _T.Q6_K


def _fitting(wanted: GGMLQuantizationType, inputs: int) -> GGMLQuantizationType:
    """The type itself, or the one of 32-blocks that stands in for it, or F16."""
    for kind in (wanted, _FALLBACK.get(wanted, wanted)):
        if inputs % GGML_QUANT_SIZES[kind][0] == 0:
            return kind
    return _T.F16


def _attention_values(mixture: str, layer: int, network: Network) -> GGMLQuantizationType | None:
    kind = {
        "Q2_K": _T.Q4_K if network.shares_values else _T.Q3_K,
        "Q3_K_M": _T.Q5_K if layer < 2 else _T.Q4_K,
        "Q3_K_L": _T.Q5_K,
        "Q4_K_S": _T.Q5_K if layer < 4 else None,
        "Q4_K_M": _T.Q6_K if network.gets_more(layer) else None,
        "Q5_K_M": _T.Q6_K if network.gets_more(layer) else None,
    }.get(mixture)
    kind = kind or MIXTURES[mixture][0]
    eighty_layers = network.layers == 80 and network.heads != network.kv_heads  # as Llama 2 70B
    return _T.Q5_K if eighty_layers and kind in {_T.Q3_K, _T.Q4_K} else kind


def _down(mixture: str, layer: int, network: Network) -> GGMLQuantizationType | None:
    first_eighth = layer < network.layers // 8
    return {
        "Q2_K": _T.Q3_K,
        "Q3_K_M": _T.Q5_K if layer < network.layers // 16 else _T.Q4_K,
        "Q3_K_L": _T.Q5_K,
        "Q4_K_S": _T.Q5_K if first_eighth else None,
        "Q4_K_M": _T.Q6_K if network.gets_more(layer) else None,
        "Q5_K_M": _T.Q6_K if network.gets_more(layer) else None,
        "Q4_0": _T.Q4_1 if first_eighth and network.importance else None,
        "Q5_0": _T.Q5_1 if first_eighth and network.importance else None,
    }.get(mixture)


def _attention_output(mixture: str, layer: int, network: Network) -> GGMLQuantizationType | None:
    return {"Q2_K": _T.Q3_K, "Q3_K_M": _T.Q4_K, "Q3_K_L": _T.Q5_K}.get(mixture)


_RULES: dict[str, Callable[[str, int, Network], GGMLQuantizationType | None]] = {
    "attn_v": _attention_values,
    "attn_output": _attention_output,
    "ffn_down": _down,
}
