"""AutoAWQ's class: every option does something or is refused, and quantizing writes a whole repository."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_awq import write_awq, write_float
from transformers import AutoModelForCausalLM, AutoTokenizer

from halfbyte import LLM, AutoAWQForCausalLM, HalfbyteError, SamplingParams
from halfbyte.errors import ConfigError, IntegrationError, OutputError, QuantizeError, RequestError
from halfbyte.integrations import without_cuda
from halfbyte.integrations.awq_options import shard_bytes
from halfbyte.integrations.fused_model import FusedForCausalLM

QUANT_CONFIG = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
TEXTS = ["The quick brown fox jumps over the lazy dog. " * 30, "Sphinx of black quartz, judge my vow. " * 30]
SMALL = {"max_calib_samples": 8, "max_calib_seq_len": 32}
IDS = torch.tensor([[5, 17, 99, 3]])
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


@pytest.fixture(autouse=True)
def torchs_own_cuda():
    yield
    without_cuda.uninstall()


@pytest.fixture(scope="module")
def awq(tmp_path_factory):
    return write_awq(tmp_path_factory.mktemp("awq"))


@pytest.fixture(scope="module")
def float_model(tmp_path_factory):
    return write_float(tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def quantized(float_model):
    model = AutoAWQForCausalLM.from_pretrained(float_model, low_cpu_mem_usage=True, use_cache=False)
    model.quantize(AutoTokenizer.from_pretrained(float_model), quant_config=QUANT_CONFIG, calib_data=TEXTS, **SMALL)
    return model


@pytest.mark.parametrize("spelling", ["config", "legacy", "both"])
@pytest.mark.parametrize("fuse_layers", [True, False])
def test_either_spelling_either_way(tmp_path, spelling, fuse_layers):
    folder = write_awq(tmp_path, spelling=spelling)
    model = AutoAWQForCausalLM.from_quantized(
        folder, fuse_layers=fuse_layers, trust_remote_code=False, safetensors=True
    )
    assert isinstance(model, FusedForCausalLM) == fuse_layers
    assert model.generate(IDS, **GREEDY).shape == (1, 10)


def test_options_that_ask_for_nothing(awq):
    AutoAWQForCausalLM.from_quantized(awq, device_map="auto", use_exllama=False, max_memory=None, quant_filename="")


def test_options_that_are_so_anyway(awq):
    AutoAWQForCausalLM.from_quantized(awq, batch_size=4, trust_remote_code=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "cuda:0"}, "run on the CPU"),
        ({"use_exllama": True}, "use_exllama=True has no meaning"),
        ({"quant_filename": "model.safetensors"}, "index says"),
        ({"fuse": True}, "no option fuse"),
        ({"safetensors": False}, "weights in safetensors"),
        ({"max_seq_len": 64, "max_new_tokens": 64}, "old name"),
        ({"max_seq_len": 1_000_000}, "max_seq_len"),
        ({"max_seq_len": 64, "fuse_layers": False}, "max_length"),
    ],
    ids=str,
)
def test_refused_by_from_quantized(awq, options, message):
    with pytest.raises((ConfigError, IntegrationError), match=message):
        AutoAWQForCausalLM.from_quantized(awq, **options)


def test_max_seq_len_bounds_an_answer(awq):
    for name in ("max_seq_len", "max_new_tokens"):
        model = AutoAWQForCausalLM.from_quantized(awq, **{name: 8})
        assert model.generate(IDS, max_new_tokens=512, min_new_tokens=512).shape == (1, 8)
    with pytest.raises(RequestError, match="context is 8"):
        model.generate(torch.ones(1, 9, dtype=torch.long), max_new_tokens=1)


def test_each_door_says_which_other_one_to_take(awq, float_model):
    with pytest.raises(ConfigError, match="from_pretrained, quantize and save_quantized"):
        AutoAWQForCausalLM.from_quantized(float_model)
    with pytest.raises(ConfigError, match="from_quantized runs it"):
        AutoAWQForCausalLM.from_pretrained(awq)
    with pytest.raises(HalfbyteError, match="from_quantized"):
        AutoAWQForCausalLM()


@pytest.mark.parametrize("options", [{"torch_dtype": "float16"}, {"low_cpu_mem_usage": False}, {"foo": 1}], ids=str)
def test_refused_by_from_pretrained(float_model, options):
    with pytest.raises(ConfigError):
        AutoAWQForCausalLM.from_pretrained(float_model, **options)


def test_bin_files(tmp_path):
    folder = write_float(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    AutoAWQForCausalLM.from_pretrained(folder)
    AutoAWQForCausalLM.from_pretrained(folder, safetensors=False)
    with pytest.raises(ConfigError, match="safetensors=False"):
        AutoAWQForCausalLM.from_pretrained(folder, safetensors=True)


@pytest.mark.parametrize(
    ("quant_config", "message"),
    [
        ({"w_bit": 3}, "w_bit is 3"),
        ({"zero_point": False}, "zero_point is False"),
        ({"version": "GEMV"}, "version is 'GEMV'"),
        ({"modules_to_not_convert": ["down_proj"]}, "modules_to_not_convert"),
        ({"q_groupsize": 32}, "q_groupsize is not known"),
        ({"q_group_size": "32"}, "whole number"),
        ({"q_group_size": 128}, "group size 128 does not divide"),
    ],
    ids=str,
)
def test_quant_configs_that_cannot_be(float_model, quant_config, message):
    model = AutoAWQForCausalLM.from_pretrained(float_model)
    with pytest.raises(QuantizeError, match=message):
        model.quantize(quant_config=QUANT_CONFIG | quant_config, calib_data=TEXTS, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duo_scaling": False}, "duo_scaling"),
        ({"export_compatible": True}, "folded"),
        ({"split": "validation"}, "split"),
        ({"n_samples": 3}, "no option n_samples"),
        ({"calib_data": []}, "list of texts"),
        ({"calib_data": "no/such/file.txt"}, "no such file"),
        ({"max_calib_samples": 0}, "at least 1"),
    ],
    ids=str,
)
def test_refused_by_quantize(float_model, options, message):
    with pytest.raises(QuantizeError, match=message):
        AutoAWQForCausalLM.from_pretrained(float_model).quantize(quant_config=QUANT_CONFIG, **SMALL | options)


def test_another_models_tokenizer(float_model):
    class Other:
        def encode(self, text, add_special_tokens):
            return [1, 2, 3]

    with pytest.raises(QuantizeError, match="not that of"):
        AutoAWQForCausalLM.from_pretrained(float_model).quantize(Other(), QUANT_CONFIG)


def test_autoawqs_default_text_becomes_the_builtin_one(float_model):
    model = AutoAWQForCausalLM.from_pretrained(float_model)
    with pytest.warns(UserWarning, match="pileval"):
        model.quantize(quant_config=QUANT_CONFIG, **SMALL)
    assert model.report.calib == "builtin"


def test_before_and_after(float_model):
    model = AutoAWQForCausalLM.from_pretrained(float_model, use_cache=False)
    assert model.config.model_type == "llama"
    assert model.config.use_cache is False
    assert model.device == torch.device("cpu")
    theirs = AutoModelForCausalLM.from_pretrained(float_model, dtype=torch.float32)
    assert model.generate(IDS, **GREEDY).tolist() == theirs.generate(IDS, **GREEDY).tolist()
    before = model.model(IDS).logits
    model.quantize(quant_config=QUANT_CONFIG, calib_data=TEXTS, **SMALL)
    error = (model.model(IDS).logits - before).norm() / before.norm()
    assert 0.01 < error < 0.4  # 4 bits and few inputs a row; unrelated logits would be at 1.4


def test_saved_repository(quantized, tmp_path):
    out = tmp_path / "out"
    quantized.save_quantized(out, safetensors=True, shard_size="5GB")
    assert json.loads((out / "quant_config.json").read_text()) == QUANT_CONFIG
    assert json.loads((out / "config.json").read_text())["quantization_config"]["group_size"] == 32
    assert json.loads((out / "quantize_report.json").read_text())["calib"] == "2 texts"
    assert f'model="{out}"' in (out / "README.md").read_text()
    assert [f.name for f in out.iterdir() if b"halfbyte-awq-" in f.read_bytes()] == []  # the temporary folder's name
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    tokens = quantized.generate(IDS, **GREEDY).tolist()
    assert AutoAWQForCausalLM.from_quantized(out).generate(IDS, **GREEDY).tolist() == tokens
    answer = LLM(str(out)).generate(
        {"prompt_token_ids": IDS[0].tolist()}, SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    )
    assert len(answer[0].outputs[0].token_ids) == 6


def test_shards(quantized, tmp_path):
    quantized.save_quantized(tmp_path / "out", shard_size="40KB")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert AutoAWQForCausalLM.from_quantized(tmp_path / "out", fuse_layers=False).generate(IDS, **GREEDY).shape == (
        1,
        10,
    )


def test_where_it_may_not_be_saved(float_model, quantized, tmp_path):
    with pytest.raises(QuantizeError, match="nothing is quantized yet"):
        AutoAWQForCausalLM.from_pretrained(float_model).save_quantized(tmp_path / "out")
    with pytest.raises(QuantizeError, match="safetensors=False"):
        quantized.save_quantized(tmp_path / "out", safetensors=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="overwrite=True"):
        quantized.save_quantized(tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    quantized.save_quantized(tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_shard_sizes():
    assert [shard_bytes(s) for s in ("5GB", "1.5 kb", "2GiB", 7)] == [5 * 10**9, 1500, 2 * 2**30, 7]
    for wrong in ("", "GB", "5 parsecs", "-1GB", 0, "0.1"):
        with pytest.raises(QuantizeError, match="shard_size"):
            shard_bytes(wrong)
