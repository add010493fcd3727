"""`halfbyte serve`: a model behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from halfbyte.cli import sampling_options as options
from halfbyte.cli.chat_template import ChatTemplate, read_chat_template, stops_of
from halfbyte.cli.choices import Compute


def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The model to serve.", show_default=False)
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME=MODEL", help="Serve a model under a name; may be given several times."),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="MODEL's name for requests.", show_default="as MODEL is written")
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 or :: lets other machines in; then ask for a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0: any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Ask for this key; may be given several times. Or set HALFBYTE_API_KEY."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys, one a line; a name may follow each.", show_default=False)
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="TLS certificate.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="Its private key.")] = None,
    chat_template: ChatTemplate = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Most tokens of prompt and answer.", show_default="as the model was made"
        ),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most requests that wait or are answered; more get status 429.")
    ] = 256,
    kv_cache: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help='Memory for keys and values: "2GiB", or a share such as 0.3.',
            show_default="a quarter of what is free",
        ),
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, metavar="N", help="Most sequences of a pass.")] = 64,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Most tokens of a pass.")] = 512,
    speculative_tokens: Annotated[int, typer.Option(min=0, metavar="N", help="Guess up to N tokens ahead.")] = 0,
    compute: options.Compute = Compute.AUTO,
) -> None:
    """Serve a model behind HTTP: OpenAI's API.

    Only this machine may ask unless --host says otherwise; with a key, every request but /health and /ping needs it.

    $ halfbyte serve out/my-awq --port 8000
    $ curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "out/my-awq", "messages": [{"role": "user", "content": "Hello!"}]}'
    """
    named = _named(model, served_model_name, more or [])
    from halfbyte.server.auth import read_keys
    from halfbyte.server.models import Models
    from halfbyte.server.run import serve as run
    from halfbyte.server.settings import ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        keys=read_keys(api_key or [], api_key_file),
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )
    template = read_chat_template(chat_template)
    models = Models()
    for name, source in named:
        models.add(
            name,
            source,
            max_requests=max_requests,
            stops=stops_of(chat_template),
            chat_template=template,
            max_model_len=max_model_len,
            kv_cache=kv_cache,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            speculative_tokens=speculative_tokens,
            compute=compute.value,
        )
    run(settings, models)


def _named(model: str | None, name: str | None, more: list[str]) -> list[tuple[str, str]]:
    """(name, source) of each model."""
    if name is not None and model is None:
        raise typer.BadParameter("--served-model-name names MODEL, which is not given")
    named = [] if model is None else [(name or model, model)]
    for given in more:
        name, equals, source = given.partition("=")
        if not (name and equals and source):
            raise typer.BadParameter(f"--model {given!r} is not of the form NAME=MODEL")
        named.append((name, source))
    if not named:
        raise typer.BadParameter("give a MODEL, or --model NAME=MODEL")
    return named
