"""`halfbyte serve`: a model behind HTTP."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli import sampling_options as options
from halfbyte.cli import server_options
from halfbyte.cli.chat_template import ChatTemplate, read_chat_template, stops_of
from halfbyte.cli.choices import Compute
from halfbyte.cli.engine_options import Batched, Cache, CacheDtype, CacheKind, Deterministic, Ranks, Seqs

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.engine.async_engine import AsyncEngine


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
    lora: server_options.Lora = None,
    enable_lora: server_options.EnableLora = False,
    api_key: server_options.ApiKey = None,
    api_key_file: server_options.ApiKeyFile = None,
    admin_key_file: server_options.AdminKeyFile = None,
    cors_origin: server_options.CorsOrigin = None,
    forwarded_allow_ips: server_options.Proxies = "",
    ssl_certfile: server_options.Certificate = None,
    ssl_keyfile: server_options.PrivateKey = None,
    ssl_ca_certs: server_options.ClientAuthorities = None,
    max_requests: server_options.MaxRequests = 1024,
    max_concurrent: server_options.MaxConcurrent = 1024,
    rate_limit: server_options.RateLimit = None,
    max_body_size: server_options.MaxBodySize = 4 << 20,
    max_prompt_len: server_options.MaxPromptLen = None,
    header_seconds: server_options.HeaderSeconds = 20.0,
    body_seconds: server_options.BodySeconds = 30.0,
    max_stored_responses: server_options.MaxStoredResponses = 1000,
    drain_seconds: server_options.DrainSeconds = 30.0,
    log_format: server_options.Log = server_options.LogFormat.TEXT,
    log_level: server_options.LogLevel = "info",
    log_prompts: server_options.LogPrompts = False,
    otlp_endpoint: server_options.OtlpEndpoint = None,
    chat_template: ChatTemplate = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Most tokens of prompt and answer.", show_default="as the model was made"
        ),
    ] = None,
    kv_cache: Cache = None,
    kv_cache_dtype: CacheDtype = CacheKind.AUTO,
    tensor_parallel_size: Ranks = 1,
    deterministic: Deterministic = False,
    max_num_seqs: Seqs = None,
    max_num_batched_tokens: Batched = None,
    speculative_tokens: Annotated[int, typer.Option(min=0, metavar="N", help="Guess up to N tokens ahead.")] = 0,
    compute: options.Compute = Compute.AUTO,
    replicas: server_options.Replicas = 1,
    ray_address: server_options.RayAddress = None,
) -> None:
    """Serve a model behind HTTP: OpenAI's API.

    Only this machine may ask unless --host says otherwise; with a key, every request but /health and /ping needs it.

    $ halfbyte serve out/my-awq --port 8000
    $ curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "out/my-awq", "messages": [{"role": "user", "content": "Hello!"}]}'
    """
    named = _named(model, served_model_name, more or [])
    adapters = [_pair("--lora", given) for given in lora or []]
    import os

    from halfbyte.server.auth import ADMIN_ENVIRONMENT, read_keys
    from halfbyte.server.limits import Rate
    from halfbyte.server.models import Models
    from halfbyte.server.run import serve as run
    from halfbyte.server.settings import ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        keys=read_keys(api_key or [], api_key_file),
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        ssl_keyfile_password=os.environ.get("HALFBYTE_SSL_PASSWORD"),
        ssl_ca_certs=ssl_ca_certs,
        admin_keys=read_keys([], admin_key_file, ADMIN_ENVIRONMENT),
        cors_origins=tuple(cors_origin or ()),
        forwarded_allow_ips=forwarded_allow_ips,
        max_body_bytes=max_body_size,
        max_concurrent=max_concurrent,
        rate_limit=None if rate_limit is None else Rate.parse(rate_limit),
        header_seconds=header_seconds,
        body_seconds=body_seconds,
        max_stored_responses=max_stored_responses,
        drain_seconds=drain_seconds,
        log_format=log_format.value,
        log_level=log_level,
        log_prompts=log_prompts,
        otlp_endpoint=otlp_endpoint,
    )
    template = read_chat_template(chat_template)
    models = Models(_engines(replicas, ray_address))
    for name, source in named:
        models.add(
            name,
            source,
            max_requests=max_requests,
            stops=stops_of(chat_template),
            max_prompt_len=max_prompt_len,
            enable_lora=enable_lora or bool(adapters),
            chat_template=template,
            max_model_len=max_model_len,
            kv_cache=kv_cache,
            kv_cache_dtype=kv_cache_dtype.value,
            tensor_parallel_size=tensor_parallel_size,
            deterministic=deterministic,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            speculative_tokens=speculative_tokens,
            compute=compute.value,
        )
    for name, folder in adapters:
        models.add_adapter(name, folder)
    run(settings, models)


def _engines(replicas: int, ray_address: str | None) -> Callable[..., AsyncEngine]:
    """What makes the engine of a model: one process, unless more was asked for."""
    from halfbyte.engine.async_engine import AsyncEngine
    from halfbyte.engine.replicated_engine import ReplicatedEngine

    if replicas == 1 and ray_address is None:
        return AsyncEngine
    return partial(ReplicatedEngine, replicas=replicas, ray_address=ray_address)


def _named(model: str | None, name: str | None, more: list[str]) -> list[tuple[str, str]]:
    """(name, source) of each model."""
    if name is not None and model is None:
        raise typer.BadParameter("--served-model-name names MODEL, which is not given")
    named = [] if model is None else [(name or model, model)]
    named += [_pair("--model", given) for given in more]
    if not named:
        raise typer.BadParameter("give a MODEL, or --model NAME=MODEL")
    return named


def _pair(option: str, given: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, _, value = given.partition("=")
    if not (name and value):
        raise typer.BadParameter(f"{option} {given!r} is not of the form NAME=PATH")
    return name, value
