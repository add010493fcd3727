"""The real model: greedy tokens are transformers', and it knows the capital of France."""

from __future__ import annotations

import pytest
import torch

from halfbyte import LLM, SamplingParams

PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a little",
    "def fibonacci(n):\n",
    "The president of the United States is",
    "Water boils at a temperature of",
    "In 1969, two men",
    "The three laws of thermodynamics say that",
    "My favourite recipe for bread begins with",
    "Photosynthesis is the process by which",
    "1, 1, 2, 3, 5, 8,",
    "Dear Sir or Madam,\n\n",
    "The quick brown fox",
    "A neural network is",
    "Shakespeare wrote",
    "To install Python on Linux, first",
    "The Roman Empire fell because",
    "Le chat est assis sur",
    "The speed of light is",
    "import numpy as np\n\n",
    "She opened the door and saw",
]


@pytest.fixture(scope="module")
def llm(smollm2_source):
    return LLM(smollm2_source.spec, compute="float32")


@pytest.fixture(scope="module")
def reference(smollm2_source):
    """transformers' network with the same tensors."""
    transformers = pytest.importorskip("transformers")
    settings = {k: v for k, v in smollm2_source.config.items() if k not in ("architectures", "model_type")}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    model = model.to_empty(device="cpu").float()
    state = {name: smollm2_source.read(name).float() for name in smollm2_source.tensors()}
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its frequencies are no part of the state
    return model.eval()


def greedy(llm, prompt, tokens=64):
    return llm.generate(prompt, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))[0]


def test_greedy_tokens_are_what_transformers_finds_likeliest(llm, reference):
    """By one pass over prompt and answer: if each token is the likeliest after those before it, all are greedy."""
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
    for output in llm.generate(PROMPTS[:3], params):
        start, answer = len(output.prompt_token_ids), output.outputs[0].token_ids
        with torch.no_grad():
            logits = reference(torch.tensor([output.prompt_token_ids + answer])).logits[0]
        assert logits[start - 1 : -1].argmax(-1).tolist() == answer


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_greedy_tokens_are_transformers_own(llm, reference):
    for prompt in PROMPTS:
        output = greedy(llm, prompt)
        ids = torch.tensor([output.prompt_token_ids])
        theirs = reference.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert output.outputs[0].token_ids == theirs[0, ids.shape[1] :].tolist(), prompt


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_batch_of_100_prompts_takes_transformers_tokens(llm, reference):
    """A step may differ only where the two likeliest are nearer to each other than our logits are to transformers'."""
    from pydoc_data.topics import topics

    words = " ".join(topics[name] for name in sorted(topics)).split()
    prompts = [" ".join(words[i * 97 : i * 97 + 5 + i % 20]) for i in range(100)]
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    outputs = llm.generate(prompts, params)
    near = 0
    for output in outputs:
        start, answer = len(output.prompt_token_ids), output.outputs[0].token_ids
        with torch.no_grad():
            logits = reference(torch.tensor([output.prompt_token_ids + answer])).logits[0, start - 1 : -1]
        best = logits.topk(2).values
        differs = logits.argmax(-1) != torch.tensor(answer)
        near += int(differs.sum())
        assert (best[differs, 0] - best[differs, 1] < 1e-3).all(), output.prompt
    assert near <= 5
    assert outputs[7:9] == [llm.generate(prompt, params)[0] for prompt in prompts[7:9]]


def test_logits_are_transformers(llm, reference):
    from halfbyte.models.attend import WholeSequences

    ids = torch.tensor(llm.tokenizer.encode(" ".join(PROMPTS)))
    with torch.no_grad():
        expected = reference(ids[None]).logits[0]
    hidden = llm.network.forward(ids, torch.arange(len(ids)), WholeSequences(llm.network.config, 1))
    assert (llm.network.logits(hidden) - expected).abs().max() < 1e-3


def test_the_capital_of_france(llm):
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=32))
    assert output.outputs[0].text == "The capital of France is Paris."
    assert output.outputs[0].finish_reason == "stop"
    assert "".join(d.text for d in llm.stream_chat(messages, SamplingParams(temperature=0))) == output.outputs[0].text
