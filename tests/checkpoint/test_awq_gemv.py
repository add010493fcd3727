"""AutoAWQ's gemv and gemv_fast, from its published packing rules in plain Python, one value at a time."""

import pytest
import torch
from tiny_checkpoints import AWQ_BLOCK, LLAMA, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.expected import linear_shapes
from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.quant_config import AwqConfig
from halfbyte.errors import CheckpointError, ConfigError, OutputError

WIDE = LLAMA | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
DOWN = "model.layers.0.mlp.down_proj"


def weight_of(n, k, group_size, seed=0) -> Int4Weight:
    g = torch.Generator().manual_seed(seed)
    q, z = (torch.randint(0, 16, (n, w), generator=g, dtype=torch.uint8) for w in (k, k // group_size))
    return Int4Weight(q, (torch.rand(n, k // group_size, generator=g) / 16 + 1e-3).half(), z)


def zeros_width(k: int, group_size: int) -> int:
    """In words, as AutoAWQ pads it."""
    base = -(-(k // group_size) // 8)
    multiplier = {64: 2, 32: 4}.get(group_size, 1)
    return -(-base // multiplier) * multiplier


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def pack_gemv(w: Int4Weight, group_size: int) -> dict[str, torch.Tensor]:
    n, k = w.q.shape
    width, groups = zeros_width(k, group_size), k // group_size
    qweight = torch.zeros(n, k // 8, dtype=torch.int32)
    qzeros, scales = torch.zeros(n, width, dtype=torch.int32), torch.zeros(n, width * 8, dtype=torch.float16)
    for row in range(n):
        for word in range(k // 8):
            nibbles = [int(w.q[row, 8 * word + i]) for i in range(8)]
            qweight[row, word] = signed(sum(v << (4 * i) for i, v in enumerate(nibbles)), 32)
        for word in range(width):
            nibbles = [int(w.z[row, j]) for j in range(8 * word, min(8 * word + 8, groups))]
            qzeros[row, word] = signed(sum(v << (4 * i) for i, v in enumerate(nibbles)), 32)
    scales[:, :groups] = w.s
    return {"qweight": qweight, "qzeros": qzeros, "scales": scales}


def pack_gemv_fast(w: Int4Weight, group_size: int) -> dict[str, torch.Tensor]:
    n, k = w.q.shape
    width, groups = zeros_width(k, group_size) * 8, k // group_size
    # within 32 columns: pairs of the four eighths first, then each eight as evens and odds
    pairs = [8 * eighth + 2 * pair + c for pair in range(4) for eighth in range(4) for c in range(2)]
    order = [pairs[8 * run + i] for run in range(4) for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    qweight = torch.zeros(n // 4, k, dtype=torch.int16)
    for block in range(n // 4):
        for stride in range(k // 64):
            values = []  # the four rows of this stride, one after another
            for row in range(4 * block, 4 * block + 4):
                for run in range(2):
                    first = 64 * stride + 32 * run
                    values += [int(w.q[row, first + column]) for column in order]
            for word in range(64):
                packed = sum(values[4 * word + i] << (4 * i) for i in range(4))
                qweight[block, 64 * stride + word] = signed(packed, 16)
    scales, qzeros = torch.zeros(width, n, dtype=torch.float16), torch.zeros(width, n, dtype=torch.float16)
    scales[:groups] = w.s.T
    qzeros[:groups] = -(w.s.float() * w.z.float()).half().T
    return {"qweight": qweight, "qzeros": qzeros, "scales": scales}


PACKERS = {"gemv": pack_gemv, "gemv_fast": pack_gemv_fast}


def write_gemv(folder, version, group_size):
    """A model in that layout, and its weights."""
    weights = {p: weight_of(n, k, group_size, i) for i, (p, (n, k)) in enumerate(shapes().items())}
    tensors = {name: t for name, t in random_tensors(WIDE).items() if name.removesuffix(".weight") not in weights}
    for prefix, weight in weights.items():
        tensors |= {f"{prefix}.{suffix}": t for suffix, t in PACKERS[version](weight, group_size).items()}
    block = AWQ_BLOCK | {"group_size": group_size, "version": version}
    write_model(folder, WIDE | {"quantization_config": block}, tensors)
    return weights, tensors


def shapes():
    from halfbyte.checkpoint.config import ModelConfig

    return linear_shapes(ModelConfig.from_dict(WIDE, "tiny"))


@pytest.mark.parametrize("version", ["gemv", "gemv_fast"])
@pytest.mark.parametrize("group_size", [32, 64])
def test_every_weight_reads_back(tmp_path, version, group_size):
    weights, tensors = write_gemv(tmp_path, version, group_size)
    checkpoint = Checkpoint(open_source(tmp_path))
    assert checkpoint.awq == AwqConfig(group_size=group_size, version=version)
    for prefix, weight in weights.items():
        found = checkpoint.linear(prefix)
        assert isinstance(found, Int4Weight)
        for part in ("q", "s", "z"):
            assert torch.equal(getattr(found, part), getattr(weight, part)), (prefix, part)
    assert len(list(checkpoint.verify())) == len(tensors)


def test_a_width_of_many_groups(tmp_path):
    """More than eight groups a row, so that padding is of whole words."""
    w = weight_of(8, 11 * 128, 128)
    for version, packer in PACKERS.items():
        config = AwqConfig(group_size=128, version=version)
        tensors = packer(w, 128)
        assert {name: tuple(t.shape) for name, t in tensors.items()} == config.shapes("x", 8, 11 * 128)
        assert torch.equal(config.unpack("x", tensors, 8, 11 * 128).dequantize(), w.dequantize())


def test_zero_points_off_the_grid_are_damage(tmp_path):
    _, tensors = write_gemv(tmp_path, "gemv_fast", 32)
    tensors[f"{DOWN}.qzeros"][0, 3] *= 1.2
    write_model(
        tmp_path, WIDE | {"quantization_config": AWQ_BLOCK | {"group_size": 32, "version": "gemv_fast"}}, tensors
    )
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {DOWN}\.qzeros is not -\(scale \* zero\)"):
        Checkpoint(open_source(tmp_path)).linear(DOWN)


def test_group_sizes_that_autoawq_never_padded():
    with pytest.raises(ConfigError, match=r"x has 96 inputs and group size 48"):
        AwqConfig(group_size=48, version="gemv").shapes("x", 8, 96)


def test_gemv_is_not_written():
    with pytest.raises(OutputError, match="gemv layout is not written"):
        AwqConfig(version="gemv").pack(weight_of(8, 64, 32))
