"""The real model through every door: LLM, the fused network and our layers inside transformers answer alike."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from halfbyte import LLM, AutoAWQForCausalLM, SamplingParams
from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.integrations import without_cuda
from halfbyte.integrations.fused_model import load_fused
from halfbyte.models.attend import WholeSequences

pytestmark = pytest.mark.timeout(900)  # the first test to use the real model quantizes it

PROMPTS = ["The capital of France is", "Once upon a time there was a little", "import numpy as np\n\n", "Water"]
STEPS = 8


@pytest.fixture(scope="module")
def tokenizer(smollm2_awq):
    return AutoTokenizer.from_pretrained(smollm2_awq, padding_side="left")


def doors(folder):
    fused = AutoAWQForCausalLM.from_quantized(folder)
    inside = AutoAWQForCausalLM.from_quantized(folder, fuse_layers=False)
    without_cuda.uninstall()
    return {"fused": fused, "inside transformers": inside}


def greedy(model, inputs):
    return model.generate(**inputs, do_sample=False, max_new_tokens=STEPS, min_new_tokens=STEPS)[:, -STEPS:].tolist()


def test_float32_tokens_are_the_same(smollm2_awq, tokenizer):
    llm = LLM(str(smollm2_awq), compute="float32")
    params = SamplingParams(temperature=0, max_tokens=STEPS, min_tokens=STEPS)
    expected = [o.outputs[0].token_ids for o in llm.generate(PROMPTS, params, use_tqdm=False)]
    fused = load_fused(Checkpoint(open_source(smollm2_awq)), compute="float32")
    assert [greedy(fused, tokenizer([p], return_tensors="pt"))[0] for p in PROMPTS] == expected
    assert greedy(fused, tokenizer(PROMPTS, return_tensors="pt", padding=True)) == expected


@torch.no_grad()
def test_8_bit_activations_leave_the_same_answers(smollm2_awq, tokenizer):
    """Rounding activations to 8 bits makes float32's last bits matter, so tokens may part where two are about as likely.

    What must hold: along one and the same text, each door's logits are as near to LLM's as LLM's own are when its
    input is disturbed by 1e-6.
    """
    network = LLM(str(smollm2_awq)).network
    ids = tokenizer(" ".join(PROMPTS) * 3, return_tensors="pt").input_ids

    def ours(disturbed=0.0):
        plain = network.embedding
        network.embedding = plain.float() * (1 + disturbed * torch.randn(plain.shape))
        logits = network.logits(network.forward(ids[0], torch.arange(ids.shape[1]), WholeSequences(network.config, 1)))
        network.embedding = plain
        return logits

    logits, noise = ours(), (ours(1e-6) - ours()).norm().item()
    assert noise < 0.1 * logits.norm()
    for name, model in doors(smollm2_awq).items():
        assert (model(ids).logits[0] - logits).norm().item() < 1.5 * noise, name
