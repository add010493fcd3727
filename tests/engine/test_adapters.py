"""LoRA adapters in PEFT's format: each answers as the merged weights do, whatever runs beside it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.engine.async_engine import AsyncEngine
from halfbyte.errors import AdapterError
from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels
from halfbyte.models import loader

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0)
PROMPT = "Hello, my name is"
LINEARS = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
ADAPTERS = {
    "all": {"targets": LINEARS, "rank": 4},
    "some": {"targets": ["self_attn.q_proj", "self_attn.v_proj"], "rank": 2, "use_rslora": True},
    "own alpha": {"targets": ["mlp.down_proj", "self_attn.k_proj"], "rank": 3, "alpha_pattern": {"mlp.down_proj": 9}},
}


def write_adapter(folder, base, seed, targets, rank, **changes):
    """A random adapter, and the base with it merged into its weights beside it."""
    g = torch.Generator().manual_seed(seed)
    tensors, merged = {}, load_file(base / "model.safetensors")
    for layer in range(2):
        for target in targets:
            module = f"model.layers.{layer}.{target}"
            weight = merged[f"{module}.weight"]
            a = torch.randn(rank, weight.shape[1], generator=g) / 4
            b = torch.randn(weight.shape[0], rank, generator=g) / 4
            alpha = changes.get("alpha_pattern", {}).get(target, 6)
            merged[f"{module}.weight"] = weight + b @ a * alpha / (
                math.sqrt(rank) if changes.get("use_rslora") else rank
            )
            for part, tensor in (("A", a), ("B", b)):
                tensors[f"base_model.model.{module}.lora_{part}.weight"] = tensor
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", "target_modules": targets} | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_repository(folder / "merged")
    save_file(merged, folder / "merged" / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    base = write_repository(home / "base")
    for seed, (name, adapter) in enumerate(ADAPTERS.items()):
        write_adapter(home / name, base, seed, **adapter)
    return home


@pytest.fixture
def llm(home):
    llm = LLM(home / "base", enable_lora=True)
    for name in ADAPTERS:
        llm.load_adapter(name, home / name)
    return llm


def close(ours, expected):
    assert ours.token_ids == expected.token_ids
    assert ours.cumulative_logprob == pytest.approx(expected.cumulative_logprob, abs=1e-3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_answers_as_the_merged_weights_do(llm, home, name):
    (ours,) = llm.generate(PROMPT, GREEDY, adapter=name)
    (expected,) = LLM(home / name / "merged").generate(PROMPT, GREEDY)
    close(ours.outputs[0], expected.outputs[0])
    (base,) = llm.generate(PROMPT, GREEDY)
    assert base.outputs[0].token_ids != ours.outputs[0].token_ids


def test_many_in_one_batch_answer_as_each_alone(llm):
    names = [None, *ADAPTERS, None, "all"]
    alone = [llm.generate(PROMPT, GREEDY, adapter=name)[0].outputs for name in names]
    ids = [llm._local.add(llm.tokenizer.encode(PROMPT), GREEDY, adapter=name) for name in names]
    from halfbyte.engine.collector import Collector

    together = [llm._collect(i, Collector(PROMPT, [], GREEDY)).outputs for i in ids]
    assert together == alone


def test_kernels_for_adapters_answer_alike_without_one(home):
    assert LLM(home / "base", enable_lora=True).generate(PROMPT, GREEDY) == LLM(home / "base").generate(PROMPT, GREEDY)


def test_dropped_while_it_is_used(llm, home):
    expected = llm.generate(PROMPT, GREEDY, adapter="all")[0].outputs[0].token_ids
    stream = llm.stream(PROMPT, GREEDY, adapter="all")
    first = next(stream)
    llm.unload_adapter("all")
    assert [first.token_id, *(delta.token_id for delta in stream)] == expected
    with pytest.raises(AdapterError, match=r"there is no adapter 'all'; loaded are: own alpha, some"):
        llm.generate(PROMPT, GREEDY, adapter="all")


def test_another_under_the_same_name_does_not_find_the_first_ones_cache(llm, home):
    prompt = "a prompt of more than a block, so that it is cached"
    llm.generate(prompt, GREEDY, adapter="all")
    llm.unload_adapter("all")
    llm.load_adapter("all", home / "own alpha")
    assert llm.generate(prompt, GREEDY, adapter="all") == llm.generate(prompt, GREEDY, adapter="own alpha")


def change(home, tmp_path, tensors=None, **config):
    folder = tmp_path / "changed"
    folder.mkdir()
    settings = json.loads((home / "all" / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    stored = load_file(home / "all" / "adapter_model.safetensors") | (tensors or {})
    save_file({k: v for k, v in stored.items() if v is not None}, folder / "adapter_model.safetensors")
    return folder


Q = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora is True, which is not supported"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"tensors": {Q + "lora_A.weight": torch.zeros(4, 31)}}, r"layer 0, q_proj has lora_A \[4, 31\]"),
        ({"tensors": {Q + "lora_B.weight": None}}, "layer 0, q_proj has lora_A and not the other one"),
        ({"tensors": {Q + "lora_A.weight": torch.full((4, 32), math.nan)}}, "not finite"),
        ({"tensors": {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}}, "lm_head.* is for no linear"),
    ],
)
def test_what_does_not_fit_is_named(llm, home, tmp_path, changes, reason):
    with pytest.raises(AdapterError, match=reason):
        llm.load_adapter("x", change(home, tmp_path, **changes))


def test_what_cannot_be_loaded(llm, home, tmp_path):
    with pytest.raises(AdapterError, match=r"adapter_config\.json cannot be read"):
        llm.load_adapter("x", tmp_path)
    with pytest.raises(AdapterError, match="named 'all' is loaded already"):
        llm.load_adapter("all", home / "all")
    with pytest.raises(AdapterError, match="enable_lora"):
        LLM(home / "base").load_adapter("x", home / "all")


def test_the_onnx_kernels_in_parts_take_adapters(home, monkeypatch):
    monkeypatch.setattr(loader, "ReferenceKernels", lambda: OnnxKernels(adaptable=True))
    llm = LLM(home / "base", enable_lora=True)
    llm.load_adapter("all", home / "all")
    (ours,) = llm.generate(PROMPT, GREEDY, adapter="all")
    (expected,) = LLM(home / "all" / "merged").generate(PROMPT, GREEDY)
    found, wanted = (next(iter(o.outputs[0].logprobs[0].values())).logprob for o in (ours, expected))
    assert found == pytest.approx(wanted, abs=0.1)  # the head is in 8 bits there


def test_adapters_are_there_again_after_a_crash(home, llm):
    (expected,) = llm.generate(PROMPT, GREEDY, adapter="all")

    async def crash():
        async with AsyncEngine(str(home / "base"), enable_lora=True) as engine:
            await engine.load_adapter("all", home / "all")
            await engine.load_adapter("some", home / "some")
            await engine.unload_adapter("some")
            os.kill(engine.pid, signal.SIGKILL)
            while not engine.restarts:
                await asyncio.sleep(0.01)
            early = await engine.complete(PROMPT, GREEDY, adapter="all")  # sent before the engine is back
            with pytest.raises(AdapterError, match=r"loaded are: all$"):
                await engine.complete(PROMPT, GREEDY, adapter="some")
            return early

    close(asyncio.run(crash()).outputs[0], expected.outputs[0])
