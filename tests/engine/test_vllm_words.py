"""What programs written for vLLM hand over and read, beside the usual."""

from __future__ import annotations

import pytest
import torch
from tiny_repository import write_repository

from halfbyte.engine import vllm_words
from halfbyte.engine.llm import LLM
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import ConfigError

SHORT = SamplingParams(max_tokens=2, temperature=0)
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder, gpu_memory_utilization=0.9, enforce_eager=True, swap_space=4, load_format="auto", revision=None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"revision": "main"}, "revision='main' cannot be honoured: write it behind the model's id"),
        ({"pipeline_parallel_size": 2}, "use tensor_parallel_size"),
        ({"gpu_memory_utilization": 1.5}, r"gpu_memory_utilization is 1\.5; it must be a share"),
        ({"gpu_memory_utilization": 0.5, "tensor_parallel_size": 2}, "on several GPUs: give kv_cache"),
    ],
)
def test_words_that_cannot_be_honoured(folder, words, says):
    with pytest.raises(ConfigError, match=says):
        LLM(folder, **words)


def test_words_that_vllm_does_not_have(folder):
    with pytest.raises(TypeError, match="unexpected keyword argument 'enforce_eagerly'"):
        LLM(folder, enforce_eagerly=True)


def test_a_share_of_a_gpu_is_of_all_that_it_holds(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 << 30, 80 << 30))
    gpu = torch.device("cuda")
    assert vllm_words.cache_of_utilization(0.5, gpu) == 20 << 30
    with pytest.raises(ConfigError, match=r"allows 16\.0 GiB, and the weights .* take 20\.0 GiB"):
        vllm_words.cache_of_utilization(0.2, gpu)
    assert vllm_words.cache_of_utilization(0.2, torch.device("cpu")) is None


def test_what_is_read_of_outputs(llm):
    outputs = llm.generate(["a", "b"], SHORT)
    assert len({output.request_id for output in outputs}) == 2
    (embedded,) = llm.embed("a")
    assert embedded.outputs.embedding == embedded.embedding.tolist()
    (scored,) = llm.score("a", "b")
    assert scored.outputs.score == scored.score


def test_chats_say_what_their_template_reads(llm):
    template = "{{ messages[0].content }}{{ tools | length }}{{ name }}{% if add_generation_prompt %}!{% endif %}"
    options = {"chat_template": template, "tools": [{}, {}], "chat_template_kwargs": {"name": "Ann"}}
    assert llm.chat(HELLO, SHORT, **options)[0].prompt == "hi2Ann!"
    assert llm.chat(HELLO, SHORT, add_generation_prompt=False, **options)[0].prompt == "hi2Ann"


def test_a_chat_under_a_named_template_ends_where_it_does(llm):
    (output,) = llm.chat(HELLO, SHORT, chat_template="airoboros-m2.0")
    assert output.prompt.endswith("USER: hi ASSISTANT: ")
