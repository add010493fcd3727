"""What a second replica brings, and what is lost when one is killed.

    python benchmarks/server_replicas.py REPOSITORY [--clients 16] [--seconds 12] [--ray] [--replicas 1 2]
        [--phases load killed]

Starts `halfbyte serve` on a free port of this machine with one replica, then with two (with --ray: actors of a Ray
cluster of this machine), and asks only it. In turn:

  throughput  so many clients, each of which asks for 64 tokens again and again: tokens a second, first token
  prefixes    conversations whose prompts grow: the share of the prompts' tokens that was found in a prefix cache
  killed      twice as many streams as the engines answer at once, and as many whole answers; kill -9 of one replica:
              until those that had begun to stream there have their error event, until all others are answered, until
              the replica is back

Prints a line of JSON for each number of replicas. Exit code 1 if anything was lost that had not begun to stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

from server_overhead import free_port

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
START, TOKENS, SEQS = 120.0, 64, 4


class Server:
    """`halfbyte serve` with so many replicas."""

    def __init__(self, repository: str, replicas: int, *more: str) -> None:
        self.port, self.replicas = free_port(), replicas
        command = [sys.executable, "-m", "halfbyte", "serve", repository, "--served-model-name", "m", "--kv-cache",
                   "512MiB", "--port", str(self.port), "--replicas", str(replicas), *more]  # fmt: skip
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    async def get(self, path: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read(-1)).decode(errors="replace")
        writer.close()
        return answer.partition("\r\n\r\n")[2]

    async def standing(self) -> list[dict]:
        model = json.loads(await self.get("/ready"))["models"]["m"]
        return model.get("replicas", [model])

    async def all_ready(self) -> None:
        deadline = time.monotonic() + START
        while True:
            try:
                if all(each["ready"] for each in await self.standing()):
                    return
            except (OSError, ValueError):
                pass
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("the server is not ready")
            await asyncio.sleep(0.02)

    async def figure(self, name: str) -> float:
        """Of all replicas together."""
        return sum(
            float(value) for value in re.findall(rf"^{name}\{{[^}}]*\}} (\S+)", await self.get("/metrics"), re.M)
        )

    async def ask(self, prompt: list[int], tokens: int, *, streamed: bool = True) -> tuple[list[float], bytes]:
        """When each piece of the answer came, and all of it."""
        asked = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        body = json.dumps(asked | {"stream": streamed}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"\r\n\r\n")
        moments, answer = [], b""
        while piece := await reader.read(65536):
            moments.append(time.monotonic())
            answer += piece
        writer.close()
        return moments, answer

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            raise RuntimeError(f"SIGTERM led to exit code {self.process.returncode}")


def tokens_of(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000, 20000) for _ in range(count)]


async def load(server: Server, options: argparse.Namespace) -> dict[str, float]:
    return await throughput(server, options.clients, options.seconds) | await prefixes(server)


async def throughput(server: Server, clients: int, seconds: float) -> dict[str, float]:
    rng, firsts, done = random.Random(0), [], 0
    await asyncio.gather(*(server.ask(tokens_of(rng, 32), 8) for _ in range(clients)))  # warm
    begin = time.monotonic()

    async def client() -> None:
        nonlocal done
        while time.monotonic() - begin < seconds:
            asked = time.monotonic()
            moments, _ = await server.ask(tokens_of(rng, 32), TOKENS)
            firsts.append(moments[0] - asked)
            done += TOKENS

    await asyncio.gather(*(client() for _ in range(clients)))
    rate = done / (time.monotonic() - begin)
    return {"tokens_per_second": round(rate, 1), "median_first_token_ms": round(1e3 * sorted(firsts)[len(firsts) // 2])}


async def prefixes(server: Server, conversations: int = 8, turns: int = 4) -> dict[str, float]:
    rng = random.Random(1)
    queries, hits = [f"vllm:prefix_cache_{kind}_total" for kind in ("queries", "hits")]
    before = await server.figure(queries), await server.figure(hits)

    async def conversation() -> None:
        prompt = tokens_of(rng, 128)
        for _ in range(turns):
            await server.ask(prompt, 4)
            prompt += tokens_of(rng, 64)

    await asyncio.gather(*(conversation() for _ in range(conversations)))
    after = await server.figure(queries), await server.figure(hits)
    best = sum(128 + 64 * (turn - 1) for turn in range(1, turns)) / sum(128 + 64 * turn for turn in range(turns))
    found = (after[1] - before[1]) / (after[0] - before[0])
    return {"prefix_hits": round(found, 3), "prefix_hits_possible": round(best, 3)}


async def killed(server: Server, _: argparse.Namespace) -> dict[str, float]:
    rng, count = random.Random(2), 2 * SEQS * server.replicas
    work = [asyncio.ensure_future(server.ask(tokens_of(rng, 32), TOKENS)) for _ in range(count)]
    work += [asyncio.ensure_future(server.ask(tokens_of(rng, 32), TOKENS, streamed=False)) for _ in range(count)]
    await asyncio.sleep(0.5)
    victim = (await server.standing())[0]
    moment = time.monotonic()
    os.kill(victim["pid"], signal.SIGKILL)

    async def back() -> float:
        while (await server.standing())[0]["pid"] == victim["pid"]:
            await asyncio.sleep(0.01)
        await server.all_ready()
        return time.monotonic() - moment

    seconds = asyncio.ensure_future(back())
    answers = await asyncio.gather(*work)
    failed = [(number, moments) for number, (moments, answer) in enumerate(answers) if b'"error"' in answer]
    begun = [moments for number, moments in failed if number < count and moments[0] < moment]
    return {
        "asked": len(work),
        "answered": len(work) - len(failed),
        "had_begun_to_stream": len(begun),
        "lost": len(failed) - len(begun),
        "error_event_ms": round(1e3 * max((moments[-1] - moment for moments in begun), default=0.0), 1),
        "all_answered_seconds": round(max(moments[-1] for moments, _ in answers) - moment, 2),
        "back_seconds": round(await seconds, 2),
    }


async def measure(options: argparse.Namespace, replicas: int) -> dict[str, float]:
    more = ("--ray-address", "local") if options.ray else ()
    found: dict[str, float] = {"replicas": replicas}
    for phase, extra in ((load, ()), (killed, ("--max-num-seqs", str(SEQS)))):
        if phase.__name__ not in options.phases or (phase is killed and replicas == 1):
            continue
        server = Server(options.repository, replicas, *more, *extra)
        try:
            begin = time.monotonic()
            await server.all_ready()
            found["start_seconds"] = round(time.monotonic() - begin, 2)
            found |= await phase(server, options)
            server.stop()
        finally:
            server.process.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--phases", nargs="+", choices=["load", "killed"], default=["load", "killed"])
    options = parser.parse_args()
    lost = 0.0
    for replicas in options.replicas:
        found = asyncio.run(measure(options, replicas))
        print(json.dumps(found), flush=True)
        lost += found.get("lost", 0)
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
