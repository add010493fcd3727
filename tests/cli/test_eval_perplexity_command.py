"""The eval perplexity command."""

import json
import math


def measured(run, *arguments):
    result = run("eval", "perplexity", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_json(run, tiny, text):
    found = measured(run, tiny, "--text", text, "--context", 64, "--windows", 3)
    assert found["tokens"] == 3 * 63
    assert (found["context"], found["windows"], found["compute"]) == (64, 3, "float32")
    assert math.isfinite(found["perplexity"])
    assert found["kl_divergence"] is found["top1_agreement"] is found["reference_perplexity"] is None


def test_a_reference(run, tiny, quantized, text):
    alone = measured(run, tiny, "--text", text, "--context", 64, "--windows", 3)
    found = measured(run, quantized, "--text", text, "--context", 64, "--windows", 3, "--reference", tiny)
    assert found["reference_perplexity"] == alone["perplexity"]
    assert found["kl_divergence"] > 0
    assert 0 < found["top1_agreement"] <= 1


def test_shown_to_people(run, quantized, tiny, text):
    result = run("eval", "perplexity", quantized, "--text", text, "--context", 64, "--windows", 3, "--reference", tiny)
    assert result.exit_code == 0
    for word in ("perplexity", "KL(reference||model)", "top-1 agreement", "windows of 64"):
        assert word in result.stdout


def test_a_text_too_short(run, tiny, text):
    result = run("eval", "perplexity", tiny, "--text", text, "--context", 100000)
    assert result.exit_code == 1
    assert "too few for one window" in result.stderr
