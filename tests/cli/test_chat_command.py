"""The chat command, with its input piped and with a model that can be steered."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from halfbyte.cli.chat import Chat
from halfbyte.cli.conversation import Conversation
from halfbyte.cli.interrupt import Interrupt
from halfbyte.engine.outputs import Delta
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import RequestError


class Parrot:
    """An LLM that says the last question back, a word a token; a prompt has a token a character."""

    def __init__(self, context: int = 1000):
        self.max_model_len = context
        self.asked: list[list[dict]] = []

    def chat_prompt(self, messages):
        self.asked.append(list(messages))
        return SimpleNamespace(token_ids=[0] * sum(len(m["content"]) for m in messages))

    def stream(self, prompt, params):
        if len(prompt["prompt_token_ids"]) >= self.max_model_len:
            raise RequestError("the prompt is too long")
        words = self.asked[-1][-1]["content"].split()
        for n, word in enumerate(words, start=1):
            if word == "interrupt":
                signal.raise_signal(signal.SIGINT)
            yield Delta(word + " ", 0, "stop" if n == len(words) else None)


def chat(context: int = 1000, max_tokens: int = 10) -> Chat:
    return Chat(Parrot(context), SamplingParams(temperature=0, max_tokens=max_tokens), Conversation())


def test_a_piped_conversation(run, quantized):
    lines = "hello\n\n/help\n/system be brief\nagain\n/reset\n/nonsense\n/exit\nnever read\n"
    result = run("chat", quantized, "--max-new-tokens", 4, stdin=lines)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("4 tokens") == 2
    assert "/system TEXT" in result.stderr
    assert "there is no command /nonsense" in result.stderr


def test_the_end_of_input_leaves(run, tiny):
    assert run("chat", tiny, stdin="").exit_code == 0


def test_a_model_without_a_template(run, plain):
    result = run("chat", plain, stdin="hi\n")
    assert result.exit_code == 1
    assert "generate --raw" in result.stderr


def test_history_goes_along(capsys):
    one = chat()
    one.reply("a b")
    one.reply("c")
    assert [m["content"] for m in one.llm.asked[-1]] == ["a b", "a b ", "c"]
    assert capsys.readouterr().out == "a b \nc \n"


def test_reset_keeps_the_system_text():
    one = chat()
    one.command("/system", "be brief")
    one.reply("a")
    one.command("/reset", "")
    one.reply("b")
    assert [m["content"] for m in one.llm.asked[-1]] == ["be brief", "b"]


def test_ctrl_c_stops_a_reply_and_keeps_what_was_said(capsys):
    one = chat()
    one.reply("one interrupt two three")
    assert capsys.readouterr().out == "one interrupt \n"
    assert one.conversation.turns[-1] == {"role": "assistant", "content": "one interrupt "}
    one.reply("goes on")
    assert capsys.readouterr().out == "goes on \n"


def test_the_oldest_exchange_makes_room(capsys):
    one = chat(context=60, max_tokens=10)
    one.reply("first " + "x" * 14)
    one.reply("second")
    one.reply("third")
    assert [m["content"] for m in one.llm.asked[-1]] == ["second", "second ", "third"]
    assert "the oldest exchange was dropped" in capsys.readouterr().err


def test_a_question_too_long_is_said_and_taken_back(capsys):
    one = chat(context=50)
    one.reply("x" * 60)
    assert one.conversation.turns == []
    assert "error: the prompt is too long" in capsys.readouterr().err
    one.reply("short")
    assert one.conversation.turns[-1]["content"] == "short "


def press_twice():
    with Interrupt() as interrupt:
        assert not interrupt.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupt.is_set()
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_interrupts_as_usual():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_terminal(tiny):
    """Ctrl-C at the prompt stays, Ctrl-D leaves."""
    pty = pytest.importorskip("pty")
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "halfbyte", "chat", str(tiny), "--max-new-tokens", "4"]
    # A job in the background of a shell ignores Ctrl-C, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(inside)
    screen = Screen(terminal)
    screen.wait_for(b"> ")
    os.write(terminal, b"hello\n")
    screen.wait_for(b"> ")
    screen.wait_for(b"> ", nudge=lambda: process.send_signal(signal.SIGINT))
    os.write(terminal, b"\x04")
    _, notes = process.communicate(timeout=60)
    os.close(terminal)
    assert process.returncode == 0
    assert b"4 tokens" in notes
    assert b"(Ctrl-D leaves)" in notes


class Screen:
    """What a program writes to its terminal."""

    def __init__(self, terminal: int):
        self.terminal = terminal

    def wait_for(self, end: bytes, nudge=lambda: None) -> None:
        """Nudges until something comes: a signal that finds readline not yet waiting is only seen after the next key."""
        seen = b""
        for _ in range(60):
            nudge()
            while select.select([self.terminal], [], [], 1)[0]:
                seen += os.read(self.terminal, 1024)
                if seen.endswith(end):
                    return
        raise AssertionError(f"no {end!r} after {seen!r}")
