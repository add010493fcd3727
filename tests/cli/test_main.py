"""The program as a whole: help, version, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from halfbyte.errors import SourceError

COMMANDS = (
    ("quantize",),
    ("generate",),
    ("chat",),
    ("plan",),
    ("inspect",),
    ("eval",),
    ("eval", "perplexity"),
    ("demo",),
    ("convert",),
    ("publish",),
)
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "numpy", "gguf", "tokenizers", "huggingface_hub")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", [(), *COMMANDS])
def test_help_waits_for_nothing_heavy(command):
    code = f"""
import sys
from halfbyte.cli.main import app
try:
    app({[*command, "--help"]!r})
except SystemExit as e:
    assert e.code == 0, e.code
found = sorted(set(sys.modules) & set({HEAVY!r}))
assert not found, found
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != ("eval",)])
def test_help_has_an_example(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"$ halfbyte {' '.join(command)}" in result.stdout or "| halfbyte" in result.stdout


def test_version(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("halfbyte 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["inspect"],
        ["inspect", "x", "--nonsense"],
        ["generate", "x"],
        ["generate", "x", "--prompt", "hi", "--max-new-tokens", "0"],
        ["generate", "x", "--prompt", "hi", "--temperature", "-1"],
        ["generate", "x", "--prompt", "hi", "--compute", "float8"],
        ["generate", "x", "--prompt", "hi", "--raw", "--system", "be brief"],
        ["quantize", "x"],
        ["quantize", "x", "y", "--group-size", "48"],
        ["quantize", "x", "y", "--samples", "0"],
        ["quantize", "x", "y", "--max-shard-size", "5 apples"],
        ["eval", "perplexity", "x"],
        ["eval", "perplexity", "x", "--text", "y", "--context", "1"],
        ["eval", "perplexity", "x", "--text", "y", "--windows", "0"],
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "/no/such/folder"],
        ["inspect", ""],
        ["generate", "/no/such/folder", "--prompt", "hi"],
        ["generate", "x", "--prompt", "hi", "--top-p", "2"],
        ["chat", "/no/such/folder"],
        ["quantize", "/no/such/folder", "out"],
        ["quantize", "/no/such/folder", "out", "--bits", "3"],
        ["eval", "perplexity", "/no/such/folder", "--text", __file__],
    ],
)
def test_failures_exit_with_1_and_one_line(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def failing_with(error: BaseException):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (SourceError("a:\n  b\n  c"), 1, "error: a: b; c\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied\n"),
        (OSError("odd"), 1, "error: odd\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_failures_end(run, monkeypatch, error, code, stderr):
    monkeypatch.setattr("halfbyte.checkpoint.open.open_source", failing_with(error))
    result = run("inspect", "x")
    assert (result.exit_code, result.stderr) == (code, stderr)


def test_debugging_shows_the_traceback(run, monkeypatch):
    monkeypatch.setenv("HALFBYTE_DEBUG", "1")
    monkeypatch.setattr("halfbyte.checkpoint.open.open_source", failing_with(SourceError("gone")))
    assert isinstance(run("inspect", "x").exception, SourceError)
