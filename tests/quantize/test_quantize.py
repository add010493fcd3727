"""Whole models: tiny ones of every family, through files, read back by the network and by an independent decoder."""

from __future__ import annotations

import json
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_awq import decode
from tiny_checkpoints import LLAMA, of_family, write_model
from tiny_sources import VOCABULARY, a_source

from halfbyte.checkpoint import writer
from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.size import awq_size
from halfbyte.errors import CheckpointError, HalfbyteError, OutputError, QuantizeError, TokenizerError
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network
from halfbyte.quantize import QuantizeOptions, quantize
from halfbyte.quantize.driver import Silent

SMALL = {"samples": 4, "seq_len": 32}


def logits(path, compute="float32"):
    checkpoint = Checkpoint(open_source(path))
    network = load_network(checkpoint, compute)
    tokens = torch.arange(60) * 7 % 1000
    return network.logits(network.forward(tokens, torch.arange(60), WholeSequences(checkpoint.config, 1)))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"sliding_window": 16}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
    ],
)
def test_each_family_is_quantized_and_runs(tmp_path, family, changes):
    source = a_source(tmp_path / "source", family, **changes)
    report = quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert report.group_size == 32
    assert len(report.layers) == 14
    reference, ours = logits(source), logits(tmp_path / "out")
    assert ((ours - reference).norm() / reference.norm()).item() < 0.35  # 4 bits of random weights, two blocks deep
    fast = logits(tmp_path / "out", "auto")
    assert ((fast - ours).norm() / ours.norm()).item() < 0.05  # what 8-bit activations add
    assert report.out_bytes == awq_size(Checkpoint(open_source(source)).config, 32)


def damaged(source):
    """Dead, constant, same-sign and huge channels, and groups of zeros, everywhere a real model might have them."""
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"][3] = 0  # a dead channel, and
    tensors["model.layers.0.post_attention_layernorm.weight"][5] = 300  # one that is louder than all others together
    for name, weight in tensors.items():
        if ".mlp.gate" in name:
            weight.abs_()
        elif ".mlp.up" in name:
            weight[:, 7] = 0.25  # an input that does the same to every output
            weight[11] = 0  # an output of zeros: a dead channel of down_proj
        elif ".q_proj.weight" in name:
            weight[2:9, :16] = 0  # groups of zeros
        elif ".v_proj.weight" in name:
            weight[4] *= 1000
        elif ".down_proj" in name:
            weight[:, 20] *= -500
            weight.view(-1)[::97] = 6e-8  # float16's smallest
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("effort", ["rtn", "awq", "gptq", "fast", "default", "best"])
def test_channels_of_every_odd_kind(tmp_path, effort):
    """With biases, a tied embedding, and k and v of eight outputs."""
    source = a_source(tmp_path / "source", "qwen2", num_key_value_heads=1, tie_word_embeddings=True)
    damaged(source)
    report = quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, effort=effort, group_size=16))
    errors = [e for layer in report.layers for e in (layer.error_before, layer.error_after)]
    assert torch.tensor([*errors, report.held_out["perplexity"], report.held_out["kl_divergence"]]).isfinite().all()
    reference, ours = logits(source), logits(tmp_path / "out")
    assert ours.isfinite().all()
    assert ((ours - reference).norm() / reference.norm()).item() < 0.3
    names = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in names
    assert names["model.layers.0.self_attn.k_proj.qweight"].shape == (32, 1)


def test_the_files_decode_by_the_containers_description_to_what_the_network_runs(tmp_path):
    source = a_source(tmp_path / "source")
    quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    checkpoint = Checkpoint(open_source(tmp_path / "out"))
    prefixes = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    assert len(prefixes) == 14
    for prefix in prefixes:
        described = decode(*(tensors[f"{prefix}.{part}"] for part in ("qweight", "qzeros", "scales")))
        assert torch.equal(described.T, checkpoint.linear(prefix).dequantize())


def test_both_config_spellings_the_report_and_the_card_are_written(tmp_path):
    source = a_source(tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: llama2\nmodel_name: Tiny\n---\n# Tiny\nOriginal words.\n")
    (source / "meta-license").mkdir()
    (source / "meta-license" / "LICENSE.txt").write_text("terms")
    out = tmp_path / "out"
    quantize(source, out, QuantizeOptions(group_size=16, **SMALL))
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": None,
    }  # fmt: skip
    assert config["torch_dtype"] == "float16"
    legacy = json.loads((out / "quant_config.json").read_text())
    assert legacy == {"zero_point": True, "q_group_size": 16, "w_bit": 4, "version": "GEMM"}
    layer = json.loads((out / "quantize_report.json").read_text())["layers"][0]
    assert layer["name"] == "model.layers.0.self_attn.q_proj"
    assert 0 <= layer["error_after"] <= layer["error_before"]
    card = (out / "README.md").read_text()
    assert "license: llama2" in card
    assert "| main | 4 | 16 |" in card
    assert card.rstrip().endswith("Original words.")
    assert (out / "meta-license" / "LICENSE.txt").read_text() == "terms"
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_one_group_a_row(tmp_path):
    source = a_source(tmp_path / "source")
    quantize(source, tmp_path / "out", QuantizeOptions(group_size=-1, **SMALL))
    down = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.down_proj.scales"]
    assert tuple(down.shape) == (1, 32)
    assert logits(tmp_path / "out", "auto").isfinite().all()


def test_shards(tmp_path):
    source = a_source(tmp_path / "source")
    quantize(source, tmp_path / "whole", QuantizeOptions(**SMALL))
    quantize(source, tmp_path / "sharded", QuantizeOptions(max_shard_size=20_000, **SMALL))
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(logits(tmp_path / "whole"), logits(tmp_path / "sharded"))


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path):
    source = a_source(tmp_path / "source")
    files = []
    for i, seed in enumerate((1, 1, 2)):
        quantize(source, tmp_path / str(i), QuantizeOptions(seed=seed, **SMALL))
        files.append((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def refused(tmp_path, source, kind, match, **options):
    with pytest.raises(kind, match=match) as caught:
        quantize(source, tmp_path / "out", QuantizeOptions(**{**SMALL, **options}))
    assert isinstance(caught.value, HalfbyteError)
    assert not (tmp_path / "out").exists()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_group_size_that_does_not_divide_names_the_layer_and_what_would(tmp_path):
    source = a_source(tmp_path / "source", intermediate_size=96)
    refused(tmp_path, source, QuantizeError, r"64 does not divide the 32 inputs of .*q_proj.* 32", group_size=64)
    other = a_source(tmp_path / "other", hidden_size=64, intermediate_size=96)
    refused(tmp_path, other, QuantizeError, r"64 does not divide the 96 inputs of .*down_proj.* 32", group_size=64)


def test_padding_is_not_advised_where_it_does_not_help(tmp_path):
    source = a_source(tmp_path / "source")
    told = r"inputs of .*q_proj;.*widens the MLP and nothing else"
    refused(tmp_path, source, QuantizeError, told, group_size=64, indivisible="pad")


@pytest.mark.parametrize("skip", [(), ("down_proj",)])
def test_the_plan_says_what_the_weight_files_take(tmp_path, skip):
    told = []
    source = a_source(tmp_path / "source")
    progress = Silent()
    progress.plan = told.append
    report = quantize(source, tmp_path / "out", QuantizeOptions(**SMALL, effort="rtn", skip=skip), progress=progress)
    states = 2 * 2 * 4 * (SMALL["samples"] + 4) * SMALL["seq_len"] * 32  # two of them, of two streams
    assert told[0].disk == report.out_bytes + states


def test_no_group_size_at_all(tmp_path):
    source = a_source(tmp_path / "source", intermediate_size=40)
    refused(tmp_path, source, QuantizeError, "down_proj 40")


def test_outputs_that_the_container_cannot_pack(tmp_path):
    source = a_source(tmp_path / "source", num_attention_heads=8, num_key_value_heads=1)
    refused(tmp_path, source, QuantizeError, "k_proj has 4 outputs")


def test_bits(tmp_path):
    with pytest.raises(QuantizeError, match="3 bits"):
        QuantizeOptions(bits=3)


def test_weights_that_are_not_finite_name_the_layer(tmp_path):
    source = a_source(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, source, CheckpointError, r"model\.layers\.1\.mlp\.up_proj\.weight")


def test_activations_that_overflow_name_layer_and_sample(tmp_path):
    config = of_family("llama", **VOCABULARY)
    source = a_source(tmp_path / "source")
    tensors = {name: t.float() for name, t in load_file(source / "model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e15
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1e30
    write_model(source, config, tensors)
    refused(tmp_path, source, QuantizeError, r"model\.layers\.1: its output is not finite for calibration sample 0")


@pytest.mark.parametrize("effort", ["rtn", "gptq", "default"])
def test_activations_whose_squares_overflow_name_the_layer(tmp_path, effort):
    source = a_source(tmp_path / "source")
    tensors = {name: t.float() for name, t in load_file(source / "model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e22
    write_model(source, of_family("llama", **VOCABULARY), tensors)
    refused(
        tmp_path,
        source,
        QuantizeError,
        r"model\.layers\.1\.mlp\.down_proj: .* calibration sample \d+, .* overflows",
        effort=effort,
    )


def test_weights_that_float16_cannot_hold_are_named(tmp_path):
    source = a_source(tmp_path / "source")
    tensors = {name: t.float() for name, t in load_file(source / "model.safetensors").items()}
    tensors["model.norm.weight"][0] = 1e6
    write_model(source, of_family("llama", **VOCABULARY), tensors)
    refused(tmp_path, source, QuantizeError, r"model\.norm\.weight holds 1e\+06")


def test_a_model_that_is_already_quantized(tmp_path):
    source = a_source(tmp_path / "source")
    quantize(source, tmp_path / "first", QuantizeOptions(**SMALL))
    refused(tmp_path, tmp_path / "first", QuantizeError, "already quantized")


def test_calibration_text_that_is_too_short_or_absent(tmp_path):
    source = a_source(tmp_path / "source")
    (tmp_path / "text.txt").write_text("A few words only.")
    refused(tmp_path, source, QuantizeError, "enough for 0 samples of 32, not for 4", calib=str(tmp_path / "text.txt"))
    refused(tmp_path, source, QuantizeError, "no such file", calib=str(tmp_path / "absent.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00" * 100)
    refused(tmp_path, source, QuantizeError, "UTF-8", calib=str(tmp_path / "binary.txt"))


def test_wikitext_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(
        tmp_path, a_source(tmp_path / "source"), QuantizeError, "cannot fetch Salesforce/wikitext", calib="wikitext"
    )


def test_no_tokenizer(tmp_path):
    source = a_source(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    refused(tmp_path, source, TokenizerError, "tokenizer")


def test_a_disk_that_is_too_small_is_found_before_starting(tmp_path, monkeypatch):
    source = a_source(tmp_path / "source")
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 0)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage)
    refused(tmp_path, source, OutputError, "choose an OUT on another disk")


def test_an_output_that_holds_something(tmp_path):
    source = a_source(tmp_path / "source")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        quantize(source, tmp_path / "out", QuantizeOptions(**SMALL))
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"


def test_the_published_size_of_llama_2_7b():
    """The card says 3.89 GB at group size 128."""
    config = ModelConfig.from_dict(
        LLAMA | {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                 "num_attention_heads": 32, "num_key_value_heads": 32}, "llama-2-7b",
    )  # fmt: skip
    assert f"{awq_size(config, 128) / 1e9:.2f}" == "3.89"


def test_a_calibration_chat_that_cannot_be_rendered_is_told_with_its_line(tmp_path):
    lines = [{"text": "a"}, {"messages": [{"role": "user"}]}]
    calib = tmp_path / "c.jsonl"
    calib.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(QuantizeError, match=r"--calib .*c\.jsonl, line 2: messages\[0\]: \"content\" is missing"):
        quantize(a_source(tmp_path / "source"), tmp_path / "out", QuantizeOptions(calib=str(calib)))
