"""--chat-template: in a quantized repository, and for one answer."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.cli.main import app
from halfbyte.prompts.templates import TEMPLATES, render_chat
from halfbyte.quantize.card import FRONT_MATTER

ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def airoboros(tiny, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "airoboros-AWQ"
    how = ("--calib", text, "--samples", 2, "--seq-len", 32, "--chat-template", "airoboros-m2.0")
    result = CliRunner().invoke(app, [str(a) for a in ("quantize", tiny, out, *how)])
    assert result.exit_code == 0, result.stderr
    return out


def test_the_repository_carries_the_template(airoboros):
    jinja = TEMPLATES["airoboros-m2.0"].jinja
    assert (airoboros / "chat_template.jinja").read_text() == jinja
    assert json.loads((airoboros / "tokenizer_config.json").read_text())["chat_template"] == jinja
    tokenizer = Tokenizer.from_source(open_source(airoboros))
    assert tokenizer.render_chat(ASK) == render_chat("airoboros-m2.0", ASK)


def test_the_card_follows(airoboros):
    card = (airoboros / "README.md").read_text()
    expected = render_chat("airoboros-m2.0", [{"role": "user", "content": "{prompt}"}])
    assert yaml.safe_load(FRONT_MATTER.match(card)[1])["prompt_template"] == expected
    assert f"```\n{expected}\n```" in card


def prompt_tokens(run, *arguments):
    result = run("generate", *arguments, "--prompt", "hi", "--max-new-tokens", 2, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["prompt_tokens"]


def test_a_name_or_a_file_for_one_answer(run, tiny, tmp_path):
    assert prompt_tokens(run, tiny, "--chat-template", "airoboros-2.1") == len("A chat. USER: hi ASSISTANT: ")
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}!")
    assert prompt_tokens(run, tiny, "--chat-template", tmp_path / "mine.jinja") == len("hi!")


def test_chat_takes_it_too(run, tiny):
    result = run("chat", tiny, "--chat-template", "airoboros-2.1", "--max-new-tokens", 2, stdin="hi\n")
    assert result.exit_code == 0
    assert f"prompt of {len('A chat. USER: hi ASSISTANT: ')} " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--prompt", "hi", "--chat-template", "airoboros"),
        ("chat", "--chat-template", "nothing.jinja"),
    ],
)
def test_what_is_neither(run, tiny, arguments):
    result = run(arguments[0], tiny, *arguments[1:])
    assert result.exit_code == 1
    assert "airoboros-m2.0" in result.stderr


def test_a_template_that_fails_is_refused_before_anything_is_written(run, tiny, text, tmp_path):
    (tmp_path / "bad.jinja").write_text("{{ raise_exception('never') }}")
    result = run("quantize", tiny, tmp_path / "out", "--calib", text, "--chat-template", tmp_path / "bad.jinja")
    assert result.exit_code == 1
    assert "--chat-template" in result.stderr
    assert not (tmp_path / "out").exists()


def test_raw_and_a_template_contradict_each_other(run, tiny):
    result = run("generate", tiny, "--prompt", "hi", "--raw", "--chat-template", "airoboros-2.1")
    assert result.exit_code == 2
