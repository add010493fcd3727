"""`halfbyte chat`: a conversation in a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from halfbyte.cli import sampling_options as options
from halfbyte.cli.chat_template import ChatTemplate, read_chat_template, stops_of
from halfbyte.cli.choices import Compute
from halfbyte.cli.conversation import Conversation
from halfbyte.cli.engine_options import Cache, Deterministic, Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.engine.llm import LLM
    from halfbyte.engine.sampling_params import SamplingParams

HELP = """\
/reset        forget what was said
/system TEXT  set the system text, and forget what was said; without TEXT, go back to the template's own
/help         this
/exit         leave (or Ctrl-D)
Ctrl-C stops a reply; what was said of it stays in the conversation"""


def chat(
    model: options.Model,
    system: options.System = None,
    chat_template: ChatTemplate = None,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = 0.7,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    repetition_penalty: options.RepetitionPenalty = 1.1,
    stop: options.Stop = None,
    seed: options.Seed = 0,
    compute: options.Compute = Compute.AUTO,
    kv_cache: Cache = None,
    tensor_parallel_size: Ranks = 1,
    deterministic: Deterministic = False,
) -> None:
    """Talk with a model.

    Ctrl-C stops a reply and keeps what was said of it; Ctrl-D leaves. /help lists the commands: /reset, /system, /exit.
    When the conversation outgrows the model's context, its oldest exchanges are dropped and you are told. Lines are
    read from stdin, which may be a pipe; only replies go to stdout.

    $ halfbyte chat out/my-awq --system "Answer in one sentence."
    """
    stop = [*(stop or []), *stops_of(chat_template)]
    params = options.sampling_params(
        max_new_tokens, temperature, top_k, top_p, repetition_penalty, stop, None if temperature == 0 else seed
    )
    from halfbyte.engine.llm import LLM
    from halfbyte.errors import RequestError

    llm = LLM(
        model,
        compute=compute.value,
        chat_template=read_chat_template(chat_template),
        kv_cache=kv_cache,
        tensor_parallel_size=tensor_parallel_size,
        deterministic=deterministic,
    )
    if llm.get_tokenizer().chat_template is None:
        raise RequestError(f"{model} has no chat template; use halfbyte generate --raw")
    Chat(llm, params, Conversation(system)).run()


class Chat:
    """One conversation with one model."""

    def __init__(self, llm: LLM, params: SamplingParams, conversation: Conversation) -> None:
        from halfbyte.cli.console import notes

        self.llm = llm
        self.params = params
        self.conversation = conversation
        self.notes = notes()

    def run(self) -> None:
        """Until the input ends or /exit."""
        if sys.stdin.isatty():
            self.notes.print("/help lists the commands, Ctrl-D leaves", style="dim")
        for line in lines():
            word, _, rest = line.partition(" ")
            if word == "/exit":
                return
            if word.startswith("/"):
                self.command(word, rest.strip())
            elif line:
                self.reply(line)

    def command(self, word: str, rest: str) -> None:
        """One of the commands that HELP lists."""
        if word == "/reset":
            self.conversation.reset()
            self.notes.print("forgotten", style="dim")
        elif word == "/system":
            self.conversation = Conversation(rest or None)
            self.notes.print(f"system text {'set' if rest else 'removed'}, conversation forgotten", style="dim")
        else:
            unknown = "" if word == "/help" else f"there is no command {word}\n"
            self.notes.print(unknown + HELP, style="dim", markup=False)

    def reply(self, question: str) -> None:
        """Ask, and show the reply. What cannot be asked is said, and taken back."""
        from halfbyte.cli.answer import show_answer, to_stdout
        from halfbyte.cli.interrupt import Interrupt
        from halfbyte.errors import HalfbyteError

        self.conversation.ask(question)
        try:
            self.trim()
            prompt = self.llm.chat_prompt(self.conversation.messages())
            with Interrupt() as interrupt:
                deltas = self.llm.stream({"prompt_token_ids": prompt.token_ids}, self.params)
                answer = show_answer(deltas, to_stdout, interrupt.is_set)
        except HalfbyteError as e:
            self.conversation.take_back()
            self.notes.print(f"error: {e}", markup=False)
            return
        to_stdout("\n")
        if answer.tokens:
            self.conversation.answer(answer.text)
        else:
            self.conversation.take_back()
        stopped = "stopped; " if answer.finish_reason is None else ""
        cut = "; cut at the token limit" if answer.finish_reason == "length" else ""
        self.notes.print(stopped + answer.speed(len(prompt.token_ids)) + cut, style="dim")

    def trim(self) -> None:
        """Keep room for an answer."""
        context = self.llm.max_model_len
        room = min(self.params.max_tokens or context, context // 2)
        dropped = self.conversation.trim(lambda m: len(self.llm.chat_prompt(m).token_ids), context - room)
        if dropped:
            times = "exchange was" if dropped == 1 else f"{dropped} exchanges were"
            self.notes.print(f"the context of {context} tokens is full: the oldest {times} dropped", style="dim")


def lines() -> Iterator[str]:
    """What the user types, line by line, until the input ends."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    import readline  # noqa: F401  gives input() its line editing and history

    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            sys.stderr.write("\n")
            return
        except KeyboardInterrupt:
            sys.stderr.write("\n(Ctrl-D leaves)\n")
