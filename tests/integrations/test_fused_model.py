"""Our network as a transformers model, in float32, where its tokens must be transformers' own."""

from __future__ import annotations

import pytest
import torch
from tiny_awq import FAMILIES, dequantized, write_awq

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.errors import ConfigError, IntegrationError, OutputError, RequestError
from halfbyte.integrations.fused_model import load_fused

PROMPTS = [[5, 17, 99, 3, 200, 41, 7, 8, 9, 10, 11], [12, 13], [250, 1, 2, 3, 77, 6]]
GREEDY = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    folder = write_awq(tmp_path_factory.mktemp("fused"), request.param)
    return load_fused(Checkpoint(open_source(folder)), compute="float32"), dequantized(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_fused(Checkpoint(open_source(write_awq(tmp_path_factory.mktemp("fused")))), compute="float32")


def left_padded(prompts=PROMPTS):
    width = max(map(len, prompts))
    ids = torch.tensor([[256] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def test_logits_are_transformers(pair):
    ours, theirs = pair
    ids = torch.tensor(PROMPTS[:1])
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-3, rtol=1e-3)
    batch = left_padded()
    real = batch["attention_mask"].bool()
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    expected = theirs(**batch, position_ids=positions).logits[real]
    torch.testing.assert_close(ours(**batch).logits[real], expected, atol=1e-3, rtol=1e-3)
    assert ours(**batch).logits.isfinite().all()


def test_left_padded_batch_is_each_prompt_alone(pair):
    ours, theirs = pair
    together = ours.generate(**left_padded(), **GREEDY)[:, -12:].tolist()
    alone = [ours.generate(torch.tensor([p]), **GREEDY)[0, -12:].tolist() for p in PROMPTS]
    expected = [
        theirs.generate(torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long), **GREEDY)[
            0, -12:
        ].tolist()
        for p in PROMPTS
    ]
    assert together == alone == expected


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 4},
        {"repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_ways_to_generate(pair, options):
    ours, theirs = pair
    batch = left_padded()
    assert ours.generate(**batch, **GREEDY | options).tolist() == theirs.generate(**batch, **GREEDY | options).tolist()


def test_prompt_lookup_takes_tokens_back(model):
    ids = torch.tensor([PROMPTS[0] * 3])
    plain = model.generate(ids, **GREEDY)
    assert model.generate(ids, prompt_lookup_num_tokens=3, **GREEDY).tolist() == plain.tolist()


def test_a_seed_repeats_a_sample(model):
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(
            model.generate(
                torch.tensor(PROMPTS[:1]), do_sample=True, temperature=0.7, top_p=0.95, top_k=40, max_new_tokens=20
            ).tolist()
        )
    assert drawn[0] == drawn[1]


def test_dynamic_scaling_follows_each_sequence(tmp_path):
    scaling = {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 8}
    model = load_fused(Checkpoint(open_source(write_awq(tmp_path / "m", **scaling))), compute="float32")
    together = model.generate(**left_padded(), **GREEDY)[:, -12:].tolist()
    assert together == [model.generate(torch.tensor([p]), **GREEDY)[0, -12:].tolist() for p in PROMPTS]


@torch.no_grad()
def test_loss(pair):
    ours, theirs = pair
    ids = torch.tensor(PROMPTS[:1])
    torch.testing.assert_close(ours(ids, labels=ids).loss, theirs(ids, labels=ids).loss, atol=1e-4, rtol=1e-4)
    assert ours(ids, labels=ids, return_dict=False)[0] == ours(ids, labels=ids).loss


def test_only_the_logits_that_are_asked_for(model):
    ids = torch.tensor(PROMPTS[:1])
    everything = model(ids).logits
    assert everything.shape == (1, 11, 257)
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, everything[:, -2:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, everything[:, [0, 4]])


def test_answers_end_where_the_context_does(tmp_path):
    model = load_fused(Checkpoint(open_source(write_awq(tmp_path / "m"))), max_seq_len=16)
    assert model.generate(torch.tensor(PROMPTS[:1]), max_new_tokens=512, min_new_tokens=512).shape == (1, 16)
    with pytest.raises(RequestError, match="17 tokens and the context is 16"):
        model.generate(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ConfigError, match="max_seq_len"):
        load_fused(Checkpoint(open_source(tmp_path / "m")), max_seq_len=4096)


def test_torch_has_its_threads_back(model):
    before = torch.get_num_threads()
    model.generate(torch.tensor(PROMPTS[:1]), **GREEDY)
    with pytest.raises(RequestError):
        model.generate(torch.tensor([[300]]))
    assert torch.get_num_threads() == before


def test_what_it_says_of_itself(model):
    assert type(model).__name__ == "LlamaForCausalLM"  # by which pipelines know it
    assert model.device == torch.device("cpu")
    assert model.can_generate()
    assert model.to("cpu") is model
    assert model.generation_config.eos_token_id == 256


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"inputs_embeds": torch.zeros(1, 2, 64)}, "inputs_embeds"),
        ({"input_ids": torch.tensor([[1]]), "output_hidden_states": True}, "output_hidden_states"),
        ({"input_ids": torch.tensor([[257]])}, "vocabulary has 257"),
        ({"input_ids": torch.tensor([[-1]])}, "from -1"),
        ({"input_ids": torch.empty(1, 0, dtype=torch.long)}, "empty"),
        ({"input_ids": torch.tensor([[1]]), "attention_mask": torch.ones(1, 1, 1, 1)}, "4 dimensions"),
    ],
)
def test_refused(model, inputs, message):
    with pytest.raises(RequestError, match=message):
        model(**inputs)


def test_it_stays_where_it_is(model, tmp_path):
    with pytest.raises(OutputError, match="copy it instead"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(IntegrationError, match="CPU"):
        model.to("cuda")
    with pytest.raises(IntegrationError, match="float32"):
        model.to(torch.float16)
