"""`halfbyte generate`: one prompt, one answer."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli import sampling_options as options
from halfbyte.cli.chat_template import ChatTemplate, read_chat_template, stops_of
from halfbyte.cli.choices import Compute
from halfbyte.cli.engine_options import Cache, Deterministic, Ranks

if TYPE_CHECKING:
    from halfbyte.cli.answer import Answer
    from halfbyte.engine.llm import LLM


def generate(
    model: options.Model,
    prompt: Annotated[str, typer.Option(metavar="TEXT|-", help="What to ask; - reads stdin.", show_default=False)],
    raw: Annotated[
        bool, typer.Option("--raw", help="Give the prompt as it is, without the model's chat template.")
    ] = False,
    system: options.System = None,
    chat_template: ChatTemplate = None,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: options.Stop = None,
    seed: options.Seed = 0,
    compute: options.Compute = Compute.AUTO,
    kv_cache: Cache = None,
    tensor_parallel_size: Ranks = 1,
    deterministic: Deterministic = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the whole answer as JSON, with tokens and seconds."),
    ] = False,
) -> None:
    """Answer one prompt: text to stdout as it comes, speed to stderr.

    The model's chat template is applied unless --raw. By default the likeliest token is taken each time; for livelier
    text try --temperature 0.7 --top-p 0.95 --top-k 40.

    $ halfbyte generate out/my-awq --prompt "What is the capital of France?"
    $ git diff | halfbyte generate out/my-awq --system "Write a commit message." --prompt -
    """
    if raw and system is not None:
        raise typer.BadParameter("--system is part of the chat template, which --raw leaves out", param_hint="--system")
    if raw and chat_template is not None:
        raise typer.BadParameter("--raw leaves the chat template out", param_hint="--chat-template")
    stop = [*(stop or []), *stops_of(chat_template)]
    text = read_stdin() if prompt == "-" else prompt
    params = options.sampling_params(
        max_new_tokens, temperature, top_k, top_p, repetition_penalty, stop, None if temperature == 0 else seed
    )
    from halfbyte.cli.answer import show_answer, to_stdout
    from halfbyte.cli.console import notes, print_json
    from halfbyte.engine.llm import LLM

    started = time.perf_counter()
    llm = LLM(
        model,
        compute=compute.value,
        chat_template=read_chat_template(chat_template),
        kv_cache=kv_cache,
        tensor_parallel_size=tensor_parallel_size,
        deterministic=deterministic,
    )
    loaded = time.perf_counter() - started
    token_ids = prompt_tokens(llm, model, text, system, raw=raw)
    deltas = llm.stream({"prompt_token_ids": token_ids}, params)
    answer = show_answer(deltas, (lambda _: None) if as_json else to_stdout)
    if as_json:
        print_json(as_dict(answer, len(token_ids), loaded))
        return
    to_stdout("\n")
    notes().print(answer.speed(len(token_ids)), style="dim")


def read_stdin() -> str:
    """All of stdin as UTF-8. Raises RequestError if it is not."""
    from halfbyte.errors import RequestError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as e:
        raise RequestError(f"stdin is not UTF-8: byte {e.start} is 0x{e.object[e.start]:02x}") from e


def prompt_tokens(llm: LLM, model: str, text: str, system: str | None, *, raw: bool) -> list[int]:
    """The tokens of the prompt, as it is or in the chat template. Raises RequestError if there is no template."""
    from halfbyte.cli.conversation import Conversation
    from halfbyte.errors import RequestError

    if raw:
        return llm.get_tokenizer().encode(text)
    if llm.get_tokenizer().chat_template is None:
        raise RequestError(f"{model} has no chat template; give the prompt as the model expects it, with --raw")
    conversation = Conversation(system)
    conversation.ask(text)
    return llm.chat_prompt(conversation.messages()).token_ids


def as_dict(answer: Answer, prompt_tokens: int, loaded: float) -> dict[str, object]:
    """What --json prints."""
    return {
        "text": answer.text,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
        "seconds": {"load": loaded, "prefill": answer.prefill, "decode": answer.decode},
    }
