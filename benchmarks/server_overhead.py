"""What HTTP costs: tokens a second and the time to the first token, through the server and from the engine alone.

    python benchmarks/server_overhead.py REPOSITORY [--clients 16] [--tokens 128] [--rounds 3]
        [--gguf FILE.gguf --llama-cpp-python PYTHON]

The engine alone is an AsyncEngine (its own process) that this program reads; the server is `halfbyte serve` with the
same settings, whose event streams this program reads through plain sockets. They take turns, `rounds` times; figures
are medians. Our answers have exactly `tokens` tokens, behind prompts of 32 random tokens that share no prefix. The
first token is timed over requests that come one after the other. llama-cpp-python's server, if an interpreter that has
it is named, gets prompts of 32 words in the same run, as it takes no token ids. Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from contextlib import asynccontextmanager

WORDS = (
    "red", "blue", "house", "river", "stone", "light", "paper", "green", "table", "winter", "music", "garden", "night",
    "water", "cloud", "seven",
)  # fmt: skip
PROMPT, FIRSTS, START = 32, 24, 90.0  # tokens of a prompt, requests that time the first token, seconds to start in


class OverHttp:
    """Asks a server. texts: it takes no token ids, and does not know `ignore_eos`."""

    def __init__(self, port: int, seed: int, *, texts: bool = False) -> None:
        self.port, self.rng, self.texts = port, random.Random(seed), texts
        self.made = 0  # tokens

    async def ask(self, tokens: int) -> float:
        """Stream an answer; seconds to its first event. Raises RuntimeError if it is not as long as asked."""
        body = {"model": "m", "prompt": prompt(self.rng), "max_tokens": tokens, "temperature": 0, "stream": True}
        if self.texts:
            body["prompt"] = " ".join(self.rng.choices(WORDS, k=PROMPT))
        else:
            body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
        content = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        begin = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        first, seen = None, []
        while part := await reader.read(65536):
            seen.append(part)
            if first is None and b"data:" in part:
                first = time.perf_counter() - begin
        writer.close()
        answer = b"".join(seen)
        counts = re.findall(rb'"completion_tokens": ?(\d+)', answer)
        events = answer.count(b"data: {")
        if first is None or (not self.texts and int(counts[-1]) < tokens):
            raise RuntimeError(answer[:500].decode(errors="replace"))
        self.made += events if self.texts else tokens
        return first


class FromEngine:
    """Asks an engine without a server."""

    def __init__(self, engine, seed: int) -> None:
        self.engine, self.rng, self.made = engine, random.Random(seed), 0

    async def ask(self, tokens: int) -> float:
        """Stream an answer; seconds to its first token."""
        from halfbyte import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        begin = time.perf_counter()
        first = None
        async for _ in self.engine.generate({"prompt_token_ids": prompt(self.rng)}, params):
            first = first or time.perf_counter() - begin
        assert first is not None
        self.made += tokens
        return first


def prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(1000, 20000) for _ in range(PROMPT)]


async def measure(side, clients: int, tokens: int) -> tuple[float, float]:
    """Tokens a second with so many clients, and the median seconds to the first token with one."""
    begin, before = time.perf_counter(), side.made
    await asyncio.gather(*(side.ask(tokens) for _ in range(clients)))
    rate = (side.made - before) / (time.perf_counter() - begin)
    return rate, statistics.median([await side.ask(2) for _ in range(FIRSTS)])


@asynccontextmanager
async def server(command: list[str], port: int, *, texts: bool = False):
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} did not start") from None
                await asyncio.sleep(0.2)
        yield OverHttp(port, seed=port, texts=texts)
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


async def main(args: argparse.Namespace) -> None:
    from halfbyte.engine.async_engine import AsyncEngine

    ours = [
        sys.executable,
        "-m",
        "halfbyte",
        "serve",
        args.repository,
        "--max-model-len",
        "1024",
        "--kv-cache",
        "512MiB",
    ]
    ours += ["--served-model-name", "m"]
    theirs = [args.llama_cpp_python or "", "-m", "llama_cpp.server", "--model", args.gguf or "", "--n_ctx", "1024"]
    theirs += ["--interrupt_requests", "False"]  # it would break an answer off when the next request comes
    figures: dict[str, list[tuple[float, float]]] = {}
    async with (
        AsyncEngine(args.repository, max_model_len=1024, kv_cache="512MiB") as engine,
        server(ours, free_port()) as http,
    ):
        sides = {"engine alone": FromEngine(engine, 1), "halfbyte serve": http}
        for name, side in sides.items():
            await measure(side, 2, 8)  # the first passes are slower
            figures[name] = []
        for _ in range(args.rounds):
            for name, side in sides.items():
                figures[name].append(await measure(side, args.clients, args.tokens))
    if args.gguf and args.llama_cpp_python:
        async with server(theirs, free_port(), texts=True) as peer:
            await measure(peer, 2, 8)
            figures["llama-cpp-python server"] = [
                await measure(peer, args.clients, args.tokens) for _ in range(args.rounds)
            ]
    base = statistics.median(rate for rate, _ in figures["engine alone"])
    first = statistics.median(seconds for _, seconds in figures["engine alone"])
    for name, found in figures.items():
        rate, seconds = statistics.median(r for r, _ in found), statistics.median(s for _, s in found)
        line = {"side": name, "clients": args.clients, "tokens_per_second": round(rate, 1)}
        line |= {"share_of_engine_alone": round(rate / base, 4), "first_token_ms": round(seconds * 1e3, 2)}
        line |= {"first_token_later_by_ms": round((seconds - first) * 1e3, 2)}
        line["rounds"] = [round(r, 1) for r, _ in found]
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gguf")
    parser.add_argument("--llama-cpp-python", metavar="PYTHON")
    asyncio.run(main(parser.parse_args()))
