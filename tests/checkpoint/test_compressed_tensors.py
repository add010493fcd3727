"""compressed-tensors' pack-quantized, against its published rule restated here one value at a time.

The rule (its `pack_to_int32`): signed values get 2^(b-1) added and are laid into words as one dense stream, weights
along K, zero points along N. The last test lets the package itself decompress ours.
"""

import json

import pytest
import torch
from tiny_checkpoints import LLAMA, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.compressed_tensors import CompressedTensorsConfig, Scheme
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.containers import new_container
from halfbyte.checkpoint.expected import linear_shapes
from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
from halfbyte.checkpoint.open import open_source
from halfbyte.errors import CheckpointError, ConfigError, OutputError

DOWN = "model.layers.1.mlp.down_proj"


def stream(values: list[int], bits: int) -> list[int]:
    """Signed values -> int32 words."""
    whole = sum((value + (1 << (bits - 1))) << (i * bits) for i, value in enumerate(values))
    words = [(whole >> (32 * i)) & 0xFFFFFFFF for i in range(-(-len(values) * bits // 32))]
    return [word - (1 << 32) if word >> 31 else word for word in words]


def theirs(shape, bits, group_size, symmetric, seed=0):
    """A linear as the package stores it, and the weight that it means."""
    n, k = shape
    g, half = torch.Generator().manual_seed(seed), 1 << (bits - 1)
    q = torch.randint(-half, half, (n, k), generator=g)
    groups = k // group_size
    scale = (torch.rand(n, groups, generator=g) / 8 + 1e-3).half()
    zero = (
        torch.zeros(n, groups, dtype=torch.int64) if symmetric else torch.randint(-half, half, (n, groups), generator=g)
    )
    tensors = {
        "weight_packed": torch.tensor([stream(row, bits) for row in q.tolist()], dtype=torch.int32),
        "weight_scale": scale,
        "weight_shape": torch.tensor([n, k]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = torch.tensor([stream(c, bits) for c in zero.T.tolist()], dtype=torch.int32).T
    each = torch.arange(k) // group_size
    return tensors, (q - zero[:, each]).float() * scale.float()[:, each]


def block(strategy="group", num_bits=4, group_size=16, symmetric=False, **changes) -> dict:
    weights = {
        "num_bits": num_bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group_size,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    } | changes


def write(folder, quantization, bits=4, group_size=16, symmetric=False, float_linears=()):
    """A model in that container, and its weights as float."""
    shapes = linear_shapes(ModelConfig.from_dict(LLAMA, "tiny"))
    tensors, meant = random_tensors(LLAMA), {}
    for i, (prefix, (n, k)) in enumerate(shapes.items()):
        if prefix in float_linears:
            continue
        del tensors[f"{prefix}.weight"]
        parts, meant[prefix] = theirs((n, k), bits, k if group_size == -1 else group_size, symmetric, i)
        tensors |= {f"{prefix}.{suffix}": t.contiguous() for suffix, t in parts.items()}
    write_model(folder, LLAMA | {"quantization_config": quantization}, tensors)
    return meant, tensors


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("strategy", "group_size"), [("group", 16), ("channel", None)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_the_package_writes_is_read(tmp_path, symmetric, strategy, group_size, bits):
    meant, tensors = write(tmp_path, block(strategy, bits, group_size, symmetric), bits, group_size or -1, symmetric)
    checkpoint = Checkpoint(open_source(tmp_path))
    assert checkpoint.container.name == "compressed-tensors"
    assert checkpoint.awq is None
    for prefix, weight in meant.items():
        stored, used = checkpoint.stored(prefix), checkpoint.linear(prefix)
        assert torch.equal(stored.dequantize(), weight), prefix
        assert isinstance(used, Int4Weight) == (bits <= 4)
        assert torch.equal(used if bits > 4 else used.dequantize(), weight)
    assert len(list(checkpoint.verify())) == len(tensors)


@pytest.mark.parametrize("group_size", [32, -1])
def test_ours_is_their_stream(group_size):
    n, k, bits = 24, 64, 4
    g = torch.Generator().manual_seed(1)
    groups = 1 if group_size == -1 else k // group_size
    q, z = (torch.randint(0, 16, (n, w), generator=g, dtype=torch.uint8) for w in (k, groups))
    weight = Int4Weight(q, torch.rand(n, groups, generator=g).half(), z)
    container = new_container("compressed-tensors", group_size)
    packed = container.pack(weight)
    assert packed["weight_packed"].tolist() == [stream(row, bits) for row in (q.int() - 8).tolist()]
    assert packed["weight_zero_point"].T.tolist() == [stream(column, bits) for column in (z.T.int() - 8).tolist()]
    assert packed["weight_shape"].tolist() == [n, k]
    assert torch.equal(packed["weight_scale"], weight.s)
    back = container.unpack("x", packed, n, k)
    assert all(torch.equal(getattr(back, part), getattr(weight, part)) for part in ("q", "s", "z"))


def test_an_activation_order_is_kept(tmp_path):
    ordered = block()
    ordered["config_groups"]["group_0"]["weights"]["actorder"] = "group"
    _, tensors = write(tmp_path, ordered)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    g_idx = torch.empty(64, dtype=torch.int32)
    g_idx[order] = (torch.arange(64) // 16).int()
    tensors[f"{DOWN}.weight_g_idx"] = g_idx
    write_model(tmp_path, LLAMA | {"quantization_config": ordered}, tensors)
    checkpoint = Checkpoint(open_source(tmp_path))
    stored = checkpoint.stored(DOWN)
    for k in (0, 13, 63):
        expected = (stored.q[:, k].float() - stored.z[:, g_idx[k]].float()) * stored.s[:, g_idx[k]].float()
        assert torch.equal(checkpoint.linear(DOWN)[:, k], expected)
    packed = checkpoint.container.pack(stored)
    assert all(torch.equal(t, tensors[f"{DOWN}.{suffix}"]) for suffix, t in packed.items())
    with pytest.raises(OutputError, match="says with actorder"):
        new_container("compressed-tensors", 16).pack(stored)
    tensors[f"{DOWN}.weight_g_idx"] = g_idx + 1
    write_model(tmp_path, LLAMA | {"quantization_config": ordered}, tensors)
    with pytest.raises(CheckpointError, match=rf"{DOWN}\.weight_g_idx names groups 1\.\.4, of which there are 4"):
        Checkpoint(open_source(tmp_path)).linear(DOWN)


def test_scales_beyond_float16_stay_exact(tmp_path):
    _, tensors = write(tmp_path, block())
    tensors[f"{DOWN}.weight_scale"] = torch.full((32, 4), 3e-9, dtype=torch.bfloat16)
    write_model(tmp_path, LLAMA | {"quantization_config": block()}, tensors)
    weight = Checkpoint(open_source(tmp_path)).linear(DOWN)
    assert weight.s.dtype == torch.float32
    assert torch.equal(weight.s, tensors[f"{DOWN}.weight_scale"].float())


def test_ignored_and_named_linears(tmp_path):
    up = "model.layers.0.mlp.up_proj"
    quantization = block(ignore=["lm_head", "re:.*layers\\.0\\.mlp\\.up"])
    write(tmp_path, quantization, float_linears=(up,))
    checkpoint = Checkpoint(open_source(tmp_path))
    assert isinstance(checkpoint.stored(up), torch.Tensor)
    assert isinstance(checkpoint.stored(DOWN), IntWeight)


def test_a_scheme_that_names_a_linear_goes_first():
    eight = Scheme(bits=8, group_size=-1, targets=("re:.*down_proj$",))
    config = CompressedTensorsConfig((Scheme(), eight))
    assert config.scheme_of(DOWN) == eight
    assert config.scheme_of("model.layers.1.mlp.up_proj") == Scheme()
    assert config.bits == 8


def test_what_we_write_in_config_json_is_what_we_read(tmp_path):
    for config in (new_container("compressed-tensors", 64), new_container("compressed-tensors", -1)):
        written = json.loads(json.dumps(config.config_block()))
        write_model(tmp_path, LLAMA | {"quantization_config": written}, {})
        from halfbyte.checkpoint.containers import read_container

        assert read_container(open_source(tmp_path)) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "nvfp4-pack-quantized"}, r"quantization_config\.format is 'nvfp4-pack-quantized'"),
        ({"config_groups": {}}, r"config_groups is missing or empty"),
        ({"kv_cache_scheme": {"num_bits": 8}}, r"kv_cache_scheme quantizes the key-value cache"),
        (
            {"config_groups": {"g": {"input_activations": {"num_bits": 8}}}},
            r"g\.input_activations quantizes activations",
        ),
        ({"config_groups": {"g": {"weights": {"type": "float"}}}}, r"g\.weights\.type is 'float'"),
        ({"config_groups": {"g": {"weights": {"strategy": "block"}}}}, r"g\.weights\.strategy is 'block'"),
        ({"config_groups": {"g": {"weights": {"num_bits": 9}}}}, r"g\.weights\.num_bits must be between 2 and 8"),
        ({"config_groups": {"g": {"weights": {"strategy": "group"}}}}, r"g\.weights\.group_size is missing"),
        ({"config_groups": {"g": {"weights": {"group_size": 16}, "targets": ["re:("]}}}, r"targets has 're:\('"),
        ({"ignore": ["re:["]}, r"ignore has 're:\['"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, changes, says):
    write_model(tmp_path, LLAMA | {"quantization_config": block(**changes)}, {})
    with pytest.raises(ConfigError, match=says):
        Checkpoint(open_source(tmp_path))


def test_a_shape_that_lies(tmp_path):
    _, tensors = write(tmp_path, block())
    tensors[f"{DOWN}.weight_shape"] = torch.tensor([32, 60])
    write_model(tmp_path, LLAMA | {"quantization_config": block()}, tensors)
    with pytest.raises(CheckpointError, match=rf"{DOWN}\.weight_shape says \[32, 60\]"):
        Checkpoint(open_source(tmp_path)).linear(DOWN)


def test_what_it_cannot_hold_is_said():
    weight = IntWeight(torch.zeros(8, 32, dtype=torch.uint8), torch.ones(8, 1), torch.zeros(8, 1, dtype=torch.uint8), 8)
    with pytest.raises(OutputError, match="8 bits does not fit the 4"):
        new_container("compressed-tensors", 32).pack(weight)
    with pytest.raises(OutputError, match="not all in the middle"):
        CompressedTensorsConfig((Scheme(symmetric=True, bits=8),)).pack(weight)
    with pytest.raises(ConfigError, match="'exl2' cannot be written"):
        new_container("exl2", 32)


@pytest.mark.parametrize("group_size", [32, -1])
def test_the_package_decompresses_ours_to_the_same_weights(group_size):
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    n, k = 48, 96
    g = torch.Generator().manual_seed(2)
    groups = 1 if group_size == -1 else k // group_size
    q, z = (torch.randint(0, 16, (n, w), generator=g, dtype=torch.uint8) for w in (k, groups))
    weight = Int4Weight(q, (torch.rand(n, groups, generator=g) / 8).half(), z)
    container = new_container("compressed-tensors", group_size)
    config = QuantizationConfig.model_validate(container.config_block())
    assert (config.format, config.quantization_status) == ("pack-quantized", "compressed")
    # scales in float32, so that the package's product is not rounded to their type
    packed = {name: t.float() if name == "weight_scale" else t for name, t in container.pack(weight).items()}
    opened = PackedQuantizationCompressor.decompress(packed, config.config_groups["group_0"])
    assert torch.equal(opened["weight"].float(), weight.dequantize())
