"""The generate command."""

import json

import pytest


def answer(run, *arguments, **how):
    result = run("generate", *arguments, "--max-new-tokens", 8, "--json", **how)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_text_goes_to_stdout_and_speed_to_stderr(run, quantized):
    result = run("generate", quantized, "--prompt", "hello", "--max-new-tokens", 8)
    assert result.exit_code == 0
    assert result.stdout == answer(run, quantized, "--prompt", "hello")["text"] + "\n"
    assert "tok/s" in result.stderr


def test_json(run, tiny):
    found = answer(run, tiny, "--prompt", "hi")
    assert found["completion_tokens"] == 8
    assert found["finish_reason"] == "length"
    assert found["prompt_tokens"] == len("hi") + len("user\n\nassistant\n") + 3
    assert set(found["seconds"]) == {"load", "prefill", "decode"}


def test_raw_leaves_the_template_out(run, tiny, plain):
    assert answer(run, tiny, "--prompt", "hi", "--raw")["prompt_tokens"] == 2
    assert answer(run, plain, "--prompt", "hi", "--raw")["prompt_tokens"] == 2


def test_system_text_is_part_of_the_prompt(run, tiny):
    longer, short = (answer(run, tiny, "--prompt", "hi", *s)["prompt_tokens"] for s in (["--system", "brief"], []))
    assert longer - short == len("system\nbrief\n") + 2


def test_no_template_says_what_to_do(run, plain):
    result = run("generate", plain, "--prompt", "hi")
    assert result.exit_code == 1
    assert "--raw" in result.stderr


def test_the_prompt_may_come_from_stdin(run, tiny):
    piped = answer(run, tiny, "--prompt", "-", stdin="grüße")
    assert piped["text"] == answer(run, tiny, "--prompt", "grüße")["text"]


def test_stdin_must_be_utf8(run, tiny):
    result = run("generate", tiny, "--prompt", "-", stdin=b"caf\xe9")
    assert result.exit_code == 1
    assert "stdin is not UTF-8: byte 3 is 0xe9" in result.stderr


def test_the_seed_decides_what_is_drawn(run, tiny):
    hot = ("--prompt", "hi", "--temperature", 5)
    first, same, other = (answer(run, tiny, *hot, "--seed", seed)["text"] for seed in (1, 1, 2))
    assert first == same != other


def test_stop_ends_the_answer(run, tiny):
    whole = answer(run, tiny, "--prompt", "hi", "--temperature", 5)["text"]
    stop = whole[2:4]
    found = answer(run, tiny, "--prompt", "hi", "--temperature", 5, "--stop", "never", "--stop", stop)
    assert found["finish_reason"] == "stop"
    assert found["text"] == whole[: whole.index(stop)]


@pytest.mark.parametrize("arguments", [["--prompt", "x" * 300], ["--prompt", "", "--raw"]])
def test_prompts_that_cannot_be_answered(run, tiny, arguments):
    result = run("generate", tiny, *arguments)
    assert result.exit_code == 1
    assert "prompt" in result.stderr
    assert result.stdout == ""


def test_deterministic_on_a_cpu_is_what_it_always_is(run, quantized):
    plain = answer(run, quantized, "--prompt", "hello")["text"]
    assert answer(run, quantized, "--prompt", "hello", "--deterministic", "--compute", "auto")["text"] == plain


def test_what_only_a_gpu_computes(run, quantized, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run("generate", quantized, "--prompt", "hello", "--compute", "bfloat16")
    assert result.exit_code == 1
    assert 'compute="bfloat16" is done on a GPU' in " ".join(result.stderr.split())
