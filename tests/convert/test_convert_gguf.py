"""Whole models into GGUF and back."""

import json
import sys

import gguf
import pytest
import torch
from small_tokenizers import MemorySource, byte_level_files, sentencepiece_files
from test_tokenizer_conversion import model as sentencepiece_model
from tiny_checkpoints import of_family, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.gguf_mixtures import MIXTURES
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.convert import ConvertOptions, convert
from halfbyte.convert.importance import measure_importance, read_imatrix
from halfbyte.convert.request import Silent
from halfbyte.errors import CheckpointError, OutputError, QuantizeError, TokenizerError
from halfbyte.models.loader import load_network

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}
CARD = b"---\nlicense: other\nlicense_name: llama2\nlicense_link: https://example.org/l\nmodel_name: Tiny\n---\nText\n"
QUANTIZED = [name for name, (kind, _) in MIXTURES.items() if kind.name not in {"F32", "F16", "BF16"}]


def write_tiny(folder, family="llama", files=None, **changes):
    files = byte_level_files() if files is None else files
    vocab = Tokenizer.from_source(MemorySource(files)).vocab_size
    config = of_family(family, **({"vocab_size": vocab + 3} | changes))
    scaled = {
        name: tensor if "norm" in name else tensor * 0.05
        for name, tensor in random_tensors(config, dtype=torch.float32).items()
    }
    write_model(folder, config, scaled)
    for name, contents in (files | {"README.md": CARD}).items():
        (folder / name).write_bytes(contents)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("wide") / "tiny-wide", **WIDE)


def logits(source) -> torch.Tensor:
    from halfbyte.models.attend import WholeSequences

    network = load_network(Checkpoint(open_source(source)), "float32")
    tokens = torch.arange(40) % 90
    return network.logits(network.forward(tokens, torch.arange(40), WholeSequences(network.config, 1)))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_float32_comes_back_exactly(tmp_path, family, tied):
    source = write_tiny(tmp_path / "in", family, tie_word_embeddings=tied, sliding_window=None)
    out = tmp_path / "out.gguf"
    report = convert(source, out, "gguf:F32")
    before, after = Checkpoint(open_source(source)), Checkpoint(open_source(out))
    for name in before.expected:
        assert torch.equal(before.tensor(name), after.tensor(name)), name
    assert all(loss.relative_error == 0 for loss in report.losses)
    assert torch.equal(logits(source), logits(out))


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_type_reads_back_as_the_report_says(wide, tmp_path, name):
    out = tmp_path / "out.gguf"
    report = convert(wide, out, f"gguf:{name}")
    assert report.out_bytes == out.stat().st_size
    before, after = Checkpoint(open_source(wide)), Checkpoint(open_source(out))
    down = [f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)]
    error = sum(float(((before.tensor(n) - after.tensor(n)) ** 2).sum()) for n in down)
    power = sum(float((before.tensor(n) ** 2).sum()) for n in down)
    told = {loss.kind: loss for loss in report.losses}["mlp.down_proj"]
    assert told.relative_error == pytest.approx((error / power) ** 0.5, rel=1e-4)
    assert 0 < told.relative_error < 0.3
    fields = gguf.GGUFReader(out).fields
    assert fields["general.file_type"].contents() == int(MIXTURES[name][1])


def test_metadata_and_tokenizer(wide, tmp_path):
    out = tmp_path / "out.gguf"
    convert(wide, out, "gguf:Q8_0")
    source = open_source(out)
    said = source.metadata
    assert said["general.name"] == "Tiny"
    assert (said["general.license"], said["general.license.name"]) == ("other", "llama2")
    assert said["general.license.link"] == "https://example.org/l"
    assert said["tokenizer.ggml.pre"] == "gpt-2"
    before, after = Tokenizer.from_source(open_source(wide)), Tokenizer.from_source(source)
    for text in ("while True: pass  # 1234", "<|im_start|>user\nnaïve 你好<|im_end|>", " <tool_call>{}"):
        assert after.encode(text) == before.encode(text)
    chat = [{"role": "user", "content": "hello"}]
    assert after.render_chat(chat) == before.render_chat(chat)
    assert after.eos_token_ids == before.eos_token_ids


def test_sentencepiece(tmp_path):
    source = write_tiny(tmp_path / "in", files=sentencepiece_files(), max_position_embeddings=64)
    out = tmp_path / "out.gguf"
    convert(source, out, "gguf:Q8_0")
    said = open_source(out).metadata
    assert said["tokenizer.ggml.model"] == "llama"
    assert list(said["tokenizer.ggml.token_type"][:4]) == [2, 3, 3, 6]
    assert said["tokenizer.ggml.tokens"][-1].startswith("[PAD")
    before, after = (Tokenizer.from_source(open_source(place)) for place in (source, out))
    for text in ("Lists are mutable sequences, typically", "  two  spaces\n\nnaïve 🚀", "while"):
        assert after.encode(text) == before.encode(text)


def test_spaces_that_gguf_cannot_cut_are_told_with_the_way_out(tmp_path):
    for legacy in (False, True):
        settings = json.dumps({"legacy": legacy, "bos_token": "<s>", "eos_token": "</s>"}).encode()
        files = {"tokenizer.model": sentencepiece_model(), "tokenizer_config.json": settings}
        source = write_tiny(tmp_path / f"in{legacy}", files=files)
        if legacy:
            convert(source, tmp_path / "out.gguf", "gguf:Q8_0")
        else:
            with pytest.raises(TokenizerError, match=r'other tokens from position \d+; without "legacy": false in'):
                convert(source, tmp_path / "out.gguf", "gguf:Q8_0")


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
        {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 0.7, "high_freq_factor": 11.0,
         "original_max_position_embeddings": 2000},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.3},
    ],
    ids=lambda rope: f"{rope['rope_type']} {rope.get('original_max_position_embeddings')} {'attention_factor' in rope}",
)  # fmt: skip
def test_rope_scaling(tmp_path, rope):
    source = write_tiny(tmp_path / "in", rope_scaling=rope, rope_theta=500000.0)
    out = tmp_path / "out.gguf"
    convert(source, out, "gguf:F32")
    assert torch.allclose(logits(source), logits(out), atol=1e-4)
    again = Checkpoint(open_source(out)).config.rope
    assert again.rope_type == rope["rope_type"]
    assert again.factor == pytest.approx(rope["factor"], rel=1e-6)


@pytest.mark.parametrize(
    ("family", "slides"),
    [
        ("qwen2", {"max_window_layers": 1}),
        ("qwen3", {"max_window_layers": 0}),
        ("qwen2", {"layer_types": ["sliding_attention", "full_attention"]}),
        ("mistral", {}),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}),
    ],
)
def test_windows_of_some_layers_come_back(tmp_path, family, slides):
    source = write_tiny(tmp_path / "in", family, use_sliding_window=True, sliding_window=7, **slides)
    file, folder = tmp_path / "out.gguf", tmp_path / "again"
    convert(source, file, "gguf:F32")
    convert(file, folder, "fp16")
    before, between, after = (Checkpoint(open_source(path)).config for path in (source, file, folder))
    assert before.sliding_windows == between.sliding_windows == after.sliding_windows
    assert 7 in after.sliding_windows


def test_what_llama_cpp_does_not_do_is_told(tmp_path):
    source = write_tiny(tmp_path / "in", "mistral", sliding_window=64)
    report = convert(source, tmp_path / "out.gguf", "gguf:F16")
    assert any("slides a window of 64" in note for note in report.notes)
    source = write_tiny(tmp_path / "in2", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    report = convert(source, tmp_path / "out2.gguf", "gguf:F16")
    assert any("dynamic rope scaling" in note for note in report.notes)


def test_types_that_gave_way_are_told(tmp_path):
    report = convert(write_tiny(tmp_path / "in"), tmp_path / "out.gguf", "gguf:Q4_K_M")
    assert any("Q5_0 instead of Q4_K" in note for note in report.notes)


def test_a_type_that_is_there_already_is_kept_to_the_byte(wide, tmp_path):
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    convert(wide, first, "gguf:Q4_K_M")
    report = convert(first, second, "gguf:Q4_K_M")
    assert all(loss.relative_error == 0 for loss in report.losses)
    ours = gguf.GGUFReader(second).tensors
    assert all((a.data == b.data).all() for a, b in zip(gguf.GGUFReader(first).tensors, ours, strict=True))


def test_importance_of_both_kinds(wide, tmp_path):
    options = ConvertOptions(imatrix="builtin", samples=2, seq_len=64)
    report = convert(wide, tmp_path / "a.gguf", "gguf:Q4_K_S", options)
    plain = convert(wide, tmp_path / "b.gguf", "gguf:Q4_K_S")
    weighed = {loss.kind: loss for loss in report.losses}
    for loss in plain.losses:
        if loss.kind.startswith("mlp"):
            assert loss.importance_error is None
            assert loss.relative_error <= weighed[loss.kind].relative_error
            assert weighed[loss.kind].importance_error < weighed[loss.kind].relative_error
    found = measure_importance(Checkpoint(open_source(wide)), options, Silent())
    path = tmp_path / "imatrix.gguf"
    writer = gguf.GGUFWriter(path, "imatrix")
    for name, values in found.items():
        writer.add_tensor(f"{name}.in_sum2", values.numpy()[None] * 128)
        writer.add_tensor(f"{name}.counts", torch.full((1, 1), 128.0).numpy())
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    read = read_imatrix(path)
    assert read.keys() == found.keys()
    assert all(torch.allclose(read[name], found[name]) for name in found)
    convert(wide, tmp_path / "c.gguf", "gguf:Q4_K_S", ConvertOptions(imatrix=str(path)))
    sums = [{loss.kind: loss.importance_error for loss in r.losses} for r in (report,)]
    assert sums[0]["self_attn.q_proj"] is not None


def test_another_models_importance_is_refused(wide, tmp_path):
    path = tmp_path / "imatrix.dat"
    name = b"blk.0.attn_q.weight"
    path.write_bytes(
        (1).to_bytes(4, "little") + len(name).to_bytes(4, "little") + name + (1).to_bytes(4, "little")
        + (3).to_bytes(4, "little") + torch.ones(3).numpy().tobytes()
    )  # fmt: skip
    with pytest.raises(QuantizeError, match=r"blk\.0\.attn_q\.weight has 3 values for 256 inputs"):
        convert(wide, tmp_path / "out.gguf", "gguf:Q4_K_S", ConvertOptions(imatrix=str(path)))
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged"):
        read_imatrix(path)


def test_nothing_is_left_of_a_run_that_fails(wide, tmp_path):
    tensors = random_tensors(json.loads((wide / "config.json").read_text()))
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].float()
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6
    folder = tmp_path / "in"
    write_model(folder, json.loads((wide / "config.json").read_text()), tensors)
    for name, contents in byte_level_files().items():
        (folder / name).write_bytes(contents)
    with pytest.raises(QuantizeError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds 1e\+06"):
        convert(folder, tmp_path / "out.gguf", "gguf:Q4_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_wrong_asks(wide, tmp_path):
    with pytest.raises(QuantizeError, match=r"out: gguf:Q8_0 is one file"):
        convert(wide, tmp_path / "out", "gguf:Q8_0")
    with pytest.raises(QuantizeError, match=r"'exl2' is not a format .* gguf:Q4_K_M"):
        convert(wide, tmp_path / "out", "exl2:4bit")
    there = tmp_path / "there.gguf"
    there.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        convert(wide, there, "gguf:Q8_0")
    convert(wide, there, "gguf:Q8_0", ConvertOptions(overwrite=True))
    assert there.read_bytes()[:4] == b"GGUF"
    with pytest.raises(QuantizeError, match="--imatrix is for GGUF"):
        convert(wide, tmp_path / "out", "fp16", ConvertOptions(imatrix="builtin"))


def test_a_vocabulary_that_is_not_this_models(tmp_path):
    source = write_tiny(tmp_path / "in", vocab_size=48)
    with pytest.raises(TokenizerError, match="the embedding has 48 rows"):
        convert(source, tmp_path / "out.gguf", "gguf:F16")


def test_a_tokenizer_that_gguf_has_no_name_for(tmp_path):
    files = byte_level_files()
    state = json.loads(files["tokenizer.json"])
    state["pre_tokenizer"]["add_prefix_space"] = True
    files["tokenizer.json"] = json.dumps(state).encode()
    source = write_tiny(tmp_path / "in", files=files)
    with pytest.raises(TokenizerError, match="no name for its pre-tokenizer"):
        convert(source, tmp_path / "out.gguf", "gguf:F16")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_tensor_in_memory_at_a_time(tmp_path, monkeypatch):
    """No tensor that was read is still referenced when the next but one is."""
    import gc
    import weakref

    from halfbyte.checkpoint.checkpoint import Checkpoint as Opened

    alive: list[weakref.ref] = []
    most = 0
    read = Opened.tensor

    def watched(self, name):
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        tensor = read(self, name)
        alive.append(weakref.ref(tensor))
        return tensor

    source = write_tiny(tmp_path / "in")
    monkeypatch.setattr(Opened, "tensor", watched)
    convert(source, tmp_path / "out.gguf", "gguf:Q8_0")
    assert len(alive) > 20
    assert most <= 1
