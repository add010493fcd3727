"""The block formats by name, and the loop that feeds them blocks of a matrix."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from halfbyte.checkpoint.ggml.small_blocks import encode_affine, encode_q8, encode_symmetric
from halfbyte.checkpoint.ggml.super_blocks import encode_shifted, encode_signed
from halfbyte.errors import QuantizeError

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 1 << 15  # weights in a part: small enough that the search stays within the caches
LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How one type packs its blocks: x [S, L, B] and its weights of the error to bytes [B, n]."""

    sub_blocks: int
    length: int  # weights of a sub-block
    encode: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]

    @property
    def size(self) -> int:
        """Weights of a block."""
        return self.sub_blocks * self.length


_T = GGMLQuantizationType
_BLOCKS = {
    _T.Q4_0: BlockFormat(1, 32, lambda x, w: encode_symmetric(x, w, 4)),
    _T.Q5_0: BlockFormat(1, 32, lambda x, w: encode_symmetric(x, w, 5)),
    _T.Q8_0: BlockFormat(1, 32, encode_q8),
    _T.Q4_1: BlockFormat(1, 32, lambda x, w: encode_affine(x, w, 4)),
    _T.Q5_1: BlockFormat(1, 32, lambda x, w: encode_affine(x, w, 5)),
    _T.Q2_K: BlockFormat(16, 16, lambda x, w: encode_shifted(x, w, 2)),
    _T.Q3_K: BlockFormat(16, 16, lambda x, w: encode_signed(x, w, 3)),
    _T.Q4_K: BlockFormat(8, 32, lambda x, w: encode_shifted(x, w, 4)),
    _T.Q5_K: BlockFormat(8, 32, lambda x, w: encode_shifted(x, w, 5)),
    _T.Q6_K: BlockFormat(16, 16, lambda x, w: encode_signed(x, w, 6)),
}
_FLOATS = {_T.F32: torch.float32, _T.F16: torch.float16, _T.BF16: torch.bfloat16}
TYPES = frozenset({*_BLOCKS, *_FLOATS})


def row_bytes(inputs: int, kind: GGMLQuantizationType) -> int:
    """Bytes of a row of `inputs` weights."""
    block, size = GGML_QUANT_SIZES[kind]
    assert inputs % block == 0, (inputs, kind)
    return int(inputs // block * size)


@torch.inference_mode()
def encode(
    weight: torch.Tensor, kind: GGMLQuantizationType, importance: torch.Tensor | None = None, *, name: str = "tensor"
) -> torch.Tensor:
    """The bytes of a float tensor [..., K] in a type of TYPES: uint8 [..., row_bytes(K)].

    importance [K]: how much an error in each input channel counts (mean square of that input); None: all alike.
    Raises QuantizeError, naming the tensor, for weights beyond what float16 scales can hold.
    """
    if kind in _FLOATS:
        if kind is _T.F16 and float(weight.abs().max()) > LARGEST_HALF:
            raise _too_large(name, weight, kind)
        return weight.to(_FLOATS[kind]).contiguous().view(torch.uint8)
    block = _BLOCKS[kind]
    inputs = weight.shape[-1]
    assert inputs % block.size == 0, (inputs, kind)
    if float(weight.abs().max()) > LARGEST_HALF:
        raise _too_large(name, weight, kind)
    weights = None if importance is None else _error_weights(importance, inputs, block)
    blocks = weight.reshape(-1, block.size)
    out = torch.empty(blocks.shape[0], row_bytes(block.size, kind), dtype=torch.uint8)
    columns = inputs // block.size
    rows = max(1, AT_ONCE // inputs) * columns  # whole rows: importance repeats with them

    @torch.inference_mode()
    def encode_part(begin: int) -> None:
        part = blocks[begin : begin + rows].float()
        x = part.T.contiguous().view(block.sub_blocks, block.length, -1)
        w = None if weights is None else weights.repeat(1, 1, part.shape[0] // columns)
        out[begin : begin + rows] = block.encode(x, w)

    _for_each(encode_part, range(0, blocks.shape[0], rows))
    return out.view(*weight.shape[:-1], -1)


def _for_each(work: Callable[[int], None], begins: range) -> None:
    """Do all the parts, a thread each.

    Every operation is too small to be split itself: where cores are shared, torch's threads would wait for each other
    a hundred times as long as they work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if threads == 1 or len(begins) == 1:
            for begin in begins:
                work(begin)
            return
        with ThreadPoolExecutor(min(threads, len(begins))) as pool:
            for _ in pool.map(work, begins):
                pass
    finally:
        torch.set_num_threads(threads)


def _error_weights(importance: torch.Tensor, inputs: int, block: BlockFormat) -> torch.Tensor:
    """Importance [K] as [S, L, K / size], of mean 1; channels that were never active still count a little."""
    assert importance.shape == (inputs,), (importance.shape, inputs)
    w = importance.float() / importance.float().mean().clamp(min=1e-30)
    return w.clamp_(min=1e-5).view(-1, block.size).T.contiguous().view(block.sub_blocks, block.length, -1)


def _too_large(name: str, weight: torch.Tensor, kind: GGMLQuantizationType) -> QuantizeError:
    return QuantizeError(
        f"{name} holds {float(weight.abs().max()):.4g}, more than the float16 numbers of {kind.name} can stand for "
        f"({LARGEST_HALF:.0f}); write bf16 or gguf:BF16 instead"
    )
