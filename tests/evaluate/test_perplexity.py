"""Perplexity and distances, against a naive computation with transformers and against a model that can be seen through."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from halfbyte.errors import EvaluationError
from halfbyte.evaluate import perplexity as under_test
from halfbyte.evaluate.perplexity import cut_windows, measure, read_text, tokenize

VOCABULARY = 61


@dataclass
class Bigram:
    """A network whose logits depend on the current token alone: row t of the table."""

    table: torch.Tensor
    config: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        self.config = SimpleNamespace(vocab_size=self.table.shape[1], sliding_windows=())
        self.device = self.table.device

    def forward(self, tokens, positions, attend, lengths=None):
        assert positions.tolist() == list(range(len(tokens)))
        return tokens[:, None]

    def logits(self, hidden):
        return self.table[hidden[:, 0]]


def bigram(seed: int, vocabulary: int = VOCABULARY) -> Bigram:
    return Bigram(torch.randn(VOCABULARY, vocabulary, generator=torch.Generator().manual_seed(seed)))


def some_windows(count: int = 3, context: int = 40) -> torch.Tensor:
    return torch.randint(VOCABULARY, (count, context), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("rows", [1, 7, 39, 1000])
def test_equals_the_definition_however_it_is_sliced(monkeypatch, rows):
    monkeypatch.setattr(under_test, "LOGIT_BYTES", rows * 4 * VOCABULARY)
    model, reference, windows = bigram(0), bigram(1), some_windows()
    result = measure(model, windows, reference)

    logp = model.table.double().log_softmax(-1)[windows[:, :-1]]
    reference_logp = reference.table.double().log_softmax(-1)[windows[:, :-1]]
    loss = -logp.gather(-1, windows[:, 1:, None]).mean().item()
    kl = (reference_logp.exp() * (reference_logp - logp)).sum(-1).mean().item()
    assert result.tokens == 3 * 39
    assert result.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert result.kl_divergence == pytest.approx(kl, rel=1e-5)
    assert result.top1_agreement == pytest.approx((logp.argmax(-1) == reference_logp.argmax(-1)).double().mean().item())
    assert result.reference_perplexity == pytest.approx(measure(reference, windows).perplexity)


def test_a_model_is_at_no_distance_from_itself():
    result = measure(bigram(0), some_windows(), bigram(0))
    assert result.kl_divergence == 0
    assert result.top1_agreement == 1
    assert result.perplexity == result.reference_perplexity


def test_without_a_reference_there_is_no_distance():
    result = measure(bigram(0), some_windows())
    assert (result.kl_divergence, result.top1_agreement, result.reference_perplexity) == (None, None, None)


def test_reports_each_window():
    seen = []
    measure(bigram(0), some_windows(), progress=seen.append)
    assert seen == [1, 2, 3]


def test_vocabularies_must_be_of_one_size():
    with pytest.raises(EvaluationError, match=r"vocabulary of 61 .* one of 62"):
        measure(bigram(0), some_windows(), bigram(1, vocabulary=62))


def test_logits_that_are_not_finite_name_the_window():
    model, windows = bigram(0), some_windows()
    model.table[windows[1, 3]] = math.nan
    windows[0] = (windows[1, 3] + 1) % VOCABULARY
    with pytest.raises(EvaluationError, match="window 2 of 3"):
        measure(model, windows)


def test_windows_do_not_overlap_and_the_rest_is_dropped():
    assert cut_windows(list(range(11)), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut_windows(list(range(11)), 4, limit=1).tolist() == [[0, 1, 2, 3]]


def test_a_text_too_short_for_one_window():
    with pytest.raises(EvaluationError, match="3 tokens, too few for one window of 4"):
        cut_windows([1, 2, 3], 4)


def test_more_windows_than_there_are():
    with pytest.raises(EvaluationError, match="gives 2 windows of 4 tokens, and 5 were asked for"):
        cut_windows(list(range(8)), 4, limit=5)


def test_text_must_be_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(EvaluationError, match=r"latin\.txt is not UTF-8: byte 3 is 0xe9"):
        read_text(path)


def test_line_ends_are_newlines(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"


def test_text_must_be_there(tmp_path):
    with pytest.raises(EvaluationError, match="No such file"):
        read_text(tmp_path / "absent.txt")


@pytest.mark.parametrize(("added", "expected"), [([1], [1, 5, 6]), ([], [5, 6]), ([1, 2], [1, 5, 6])])
def test_bos_leads_only_where_the_tokenizer_adds_it(added, expected):
    class Words:
        bos_token_id = 1

        def encode(self, text, *, add_special_tokens=True):
            return (added if add_special_tokens else []) + [5, 6][: len(text)]

    assert tokenize(Words(), "ab") == expected


@pytest.mark.parametrize("context", [16, 33])
def test_equals_a_naive_computation_with_transformers(tmp_path, context):
    transformers = pytest.importorskip("transformers")
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.models.loader import load_network

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data.mul_(8)  # else every prediction is nearly uniform
    model.save_pretrained(tmp_path)

    windows = some_windows(context=context)
    result = measure(load_network(Checkpoint(open_source(tmp_path)), "float32"), windows)
    with torch.no_grad():
        losses = [model(window[None], labels=window[None]).loss.item() for window in windows]
    assert result.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
