"""Options of `halfbyte serve` that say who may ask, how much, and what is told about it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

KEYS, TLS, LIMITS, TOLD, SPREAD = "Who may ask", "TLS", "Limits", "What is told", "Several engines"


class LogFormat(StrEnum):
    """How lines of the log look."""

    TEXT = "text"
    JSON = "json"


ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY",
        rich_help_panel=KEYS,
        help="Ask for this key; may be given several times. Others can see options: HALFBYTE_API_KEY is better.",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=KEYS, help="Keys, one a line; a name may follow each."),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=KEYS,
        help="Keys for loading and unloading models and adapters; or set HALFBYTE_ADMIN_KEY. Without one nobody may.",
    ),
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        rich_help_panel=KEYS,
        help="Let pages of https://other.example ask; may be given several times. *: any.",
    ),
]
Certificate = Annotated[
    Path | None, typer.Option("--ssl-certfile", metavar="FILE.pem", rich_help_panel=TLS, help="TLS certificate.")
]
PrivateKey = Annotated[
    Path | None,
    typer.Option(
        "--ssl-keyfile",
        metavar="FILE.pem",
        rich_help_panel=TLS,
        help="Its private key; HALFBYTE_SSL_PASSWORD opens it if it is encrypted.",
    ),
]
ClientAuthorities = Annotated[
    Path | None,
    typer.Option(
        "--ssl-ca-certs",
        metavar="FILE.pem",
        rich_help_panel=TLS,
        help="Clients must show a certificate that one of these has signed.",
    ),
]
Proxies = Annotated[
    str,
    typer.Option(
        "--forwarded-allow-ips",
        metavar="IPS",
        rich_help_panel=KEYS,
        show_default="none",
        help="Proxies whose X-Forwarded-For is believed, with commas between.",
    ),
]
MaxRequests = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=LIMITS,
        help="Most requests of a model that wait or are answered; more get status 429.",
    ),
]
MaxConcurrent = Annotated[
    int,
    typer.Option(min=1, metavar="N", rich_help_panel=LIMITS, help="Most HTTP requests at once; more get status 429."),
]
RateLimit = Annotated[
    str | None,
    typer.Option(
        metavar="N/UNIT",
        rich_help_panel=LIMITS,
        show_default="none",
        help="Most requests of each key (without keys, of each address): 10/s, 600/m or 5000/h.",
    ),
]
MaxBodySize = Annotated[
    int, typer.Option(min=1, metavar="BYTES", rich_help_panel=LIMITS, help="Largest body; more gets status 413.")
]
MaxPromptLen = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=LIMITS,
        show_default="what the context has room for",
        help="Most tokens of a prompt.",
    ),
]
HeaderSeconds = Annotated[
    float,
    typer.Option(
        min=0.001,
        metavar="S",
        rich_help_panel=LIMITS,
        help="How long a request's headers may take to arrive; then status 408.",
    ),
]
BodySeconds = Annotated[
    float,
    typer.Option(
        min=0.001, metavar="S", rich_help_panel=LIMITS, help="How long a body may take to arrive; then status 408."
    ),
]
MaxStoredResponses = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=LIMITS,
        help="Most answers of /v1/responses that are kept for later; the oldest goes.",
    ),
]
DrainSeconds = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="S",
        rich_help_panel=LIMITS,
        help="How long requests may take to end after SIGTERM; streams that take longer end with an error event.",
    ),
]
Log = Annotated[
    LogFormat, typer.Option("--log-format", rich_help_panel=TOLD, help="Lines for people, or a JSON object each.")
]
LogLevel = Annotated[
    str, typer.Option(metavar="LEVEL", rich_help_panel=TOLD, help="debug, info, warning or error; on stderr.")
]
LogPrompts = Annotated[
    bool, typer.Option("--log-prompts", rich_help_panel=TOLD, help="Also log what is asked. Never done otherwise.")
]
OtlpEndpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=TOLD,
        show_default="none",
        help="Send a trace of each request to this OpenTelemetry collector, such as http://localhost:4318.",
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="NAME=FOLDER",
        help="Serve a LoRA adapter (PEFT's format) under a name, on the first model; may be given several times.",
    ),
]
EnableLora = Annotated[
    bool, typer.Option("--enable-lora", help="Let adapters be loaded while it runs; implied by --lora.")
]
Replicas = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=SPREAD,
        help="Engines of each model; a prompt goes to the one that has read its beginning, unless another is idler.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=SPREAD,
        show_default="this machine, without Ray",
        help="Spread them over a Ray cluster: HOST:PORT, auto (the one that this machine is in) or local (begin one).",
    ),
]
