"""How much each input channel of a linear matters: the mean square of what flows through it.

That is the diagonal of H = sum x xᵀ over its tokens, which llama.cpp calls the importance matrix.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from halfbyte.checkpoint.gguf_header import read_header
from halfbyte.checkpoint.gguf_names import gguf_name
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import CheckpointError, QuantizeError
from halfbyte.models.rope import Rope
from halfbyte.quantize.activations import ActivationStore
from halfbyte.quantize.block import float_block, modules, source_block
from halfbyte.quantize.calibration import calibration_data, calibration_texts
from halfbyte.quantize.stream import Stream, micro_batches

if TYPE_CHECKING:
    import numpy.typing as npt

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.convert.request import ConvertOptions, Progress

_MOST_ENTRIES = 1_000_000
_MOST_NAME = 4096


def importance_of(checkpoint: Checkpoint, options: ConvertOptions, progress: Progress) -> dict[str, torch.Tensor]:
    """Importance [K] of the inputs of each linear, by the GGUF name of its weight; {} where none is asked for."""
    if options.imatrix is None:
        return {}
    if options.imatrix == "builtin":
        return measure_importance(checkpoint, options, progress)
    return read_imatrix(Path(options.imatrix))


@torch.inference_mode()
def measure_importance(checkpoint: Checkpoint, options: ConvertOptions, progress: Progress) -> dict[str, torch.Tensor]:
    """Run calibration text through the network, a block in memory at a time."""
    config = checkpoint.config
    tokenizer = Tokenizer.from_source(checkpoint.source)
    texts = calibration_texts(options.calib, tokenizer)
    tokens = calibration_data(texts, tokenizer, options.samples, options.seq_len, options.seed).tokens
    embedded = checkpoint.tensor("model.embed_tokens.weight")[tokens].float()
    store = ActivationStore(
        len(tokens), options.seq_len, embedded.nbytes, Path(), torch.device("cpu")
    )  # in memory as a whole
    stream = Stream(config, Rope(config), store.new(config.hidden_size))
    stream.hidden.write(0, embedded)
    found = {}
    progress.start("measuring importance, block", config.num_layers)
    for layer in range(config.num_layers):
        block = float_block(source_block(checkpoint, layer))
        squares = dict.fromkeys(modules(config), torch.zeros(()))

        def observe(name: str, x: torch.Tensor, squares: dict[str, torch.Tensor] = squares) -> None:
            squares[name] = squares[name] + x.square().sum(0)

        for part in micro_batches(0, *tokens.shape):
            stream.through(block, layer, part, observe)
        stream.check(layer)
        for stack, parts in modules(config).items():
            for module, _ in parts:
                found[gguf_name(f"model.layers.{layer}.{module}.weight")] = squares[stack] / tokens.numel()
        progress.step(layer + 1)
    return found


def read_imatrix(path: Path) -> dict[str, torch.Tensor]:
    """An imatrix file of llama.cpp, GGUF or the older .dat. Raises CheckpointError naming the file."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise CheckpointError(f"--imatrix {path}: cannot be read: {error.strerror or error}") from error
    found = _from_gguf(path, data) if data[:4].tobytes() == b"GGUF" else _from_dat(path, data.tobytes())
    for name, values in found.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise CheckpointError(f"{path}: the importance of {name} has values that are negative or not finite")
    if not found:
        raise CheckpointError(f"{path}: no importance in it")
    return {name: torch.from_numpy(np.array(values, dtype=np.float32)) for name, values in found.items()}


def _from_gguf(path: Path, data: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """`NAME.in_sum2` is the sum of squares [1, K], `NAME.counts` the number of tokens [1, 1]."""
    tensors = read_header(path, data).tensors
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.type.name != "F32":
            raise CheckpointError(f"{path}: {name} is {tensor.type.name}; an imatrix file holds float32")
        arrays[name] = data[tensor.offset : tensor.offset + tensor.nbytes].copy().view("<f4")
    found = {}
    for name, sums in arrays.items():
        if name.endswith(".in_sum2"):
            counts = arrays.get(name.removesuffix(".in_sum2") + ".counts")
            if counts is None or counts.size != 1 or not counts[0] > 0:
                raise CheckpointError(f"{path}: {name} has no count beside it")
            found[name.removesuffix(".in_sum2")] = sums / counts[0]
    return found


def _from_dat(path: Path, data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """int32 count; then each: int32 length and name, int32 calls, int32 K, K float32, sums over the calls."""
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        return int(struct.unpack_from("<i", data, at - 4)[0])

    found: dict[str, npt.NDArray[np.float32]] = {}
    try:
        entries = number()
        if not 0 <= entries <= _MOST_ENTRIES:
            raise ValueError(f"{entries} entries")
        for _ in range(entries):
            length = number()
            if not 0 < length <= _MOST_NAME:
                raise ValueError(f"a name of {length} bytes")
            name = data[at : at + length].decode()
            at += length
            calls, size = number(), number()
            if size < 1 or at + 4 * size > len(data):
                raise ValueError(f"{name!r} with {size} values")
            sums = np.frombuffer(data, "<f4", size, at).astype(np.float32)
            if not (np.isfinite(sums).all() and (sums >= 0).all()):
                raise ValueError(f"{name!r} with sums of squares that are not finite and positive")
            found[name] = sums / np.float32(max(calls, 1))
            at += 4 * size
    except (struct.error, ValueError) as error:
        raise CheckpointError(f"{path}: not an imatrix file, or a damaged one: {error}") from error
    return found


def check_fits(name: str, importance: torch.Tensor, inputs: int, origin: str) -> None:
    """Raise QuantizeError if importance is of another width than the weight that it is for."""
    if importance.numel() != inputs:
        raise QuantizeError(
            f"--imatrix {origin}: {name} has {importance.numel()} values for {inputs} inputs; it is another model's"
        )
