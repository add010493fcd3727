"""Whether the server holds: many streams for minutes, clients that leave, slow readers, an engine that is killed.

    python benchmarks/server_load.py REPOSITORY [--clients 500] [--seconds 300] [--leavers 1000]

Starts `halfbyte serve` on a free port of this machine and asks only it. In turn:

  load     so many clients, each of which asks again when its answer is complete, until the time is over
  leavers  requests whose clients close the connection at a random moment
  slow     clients that read a little now and then, beside others
  killed   the engine's process is killed while 50 clients read: seconds until each has its error event, until the
           server is ready again, and whether it answers then

Prints a line every 10 s and one of JSON at the end. Exit code 1 if an answer was neither complete nor refused at the
door, if there was a 5xx before `killed`, if requests were left, or if memory grew by more than a tenth after the first
minute.
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
from collections import Counter
from pathlib import Path

from server_overhead import free_port

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
TOKENS, START = 24, 120.0


class Server:
    """The process under load."""

    def __init__(self, repository: str, clients: int) -> None:
        self.port = free_port()
        command = [
            sys.executable,
            "-m",
            "halfbyte",
            "serve",
            repository,
            "--served-model-name",
            "m",
            "--port",
            str(self.port),
        ]
        command += ["--max-concurrent", str(clients + 100), "--max-requests", str(clients + 100)]
        # Keys and values take memory only when they are first written, which a small budget has soon behind it.
        command += ["--kv-cache", "512MiB"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def get(self, path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read(-1)).decode(errors="replace")
        writer.close()
        return int(answer.split(" ", 2)[1]), answer

    async def ready(self) -> None:
        deadline = time.monotonic() + START
        while True:
            try:
                if (await self.get("/ready"))[0] == 200:
                    return
            except (OSError, IndexError):
                pass
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("the server is not ready")
            await asyncio.sleep(0.05)

    async def figures(self) -> dict[str, float]:
        """What is left in the engine, by the metrics' names."""
        _, text = await self.get("/metrics")
        names = "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"
        return {name: float(re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)", text, re.M)[0]) for name in names}

    def engine(self) -> int:
        """The number of the engine's process: the child that has most memory."""
        return max(self._family()[1:], key=_memory)

    def memory(self) -> float:
        """MB of the server and its children."""
        return sum(_memory(pid) for pid in self._family()) / 1e6

    def _family(self) -> list[int]:
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += [int(child) for child in task.read_text().split()]
        return found


def _memory(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


async def stream(
    port: int, rng: random.Random, *, tokens: int = TOKENS, leave: float | None = None, slow: bool = False
) -> str:
    """Ask for an answer; "complete", "refused", "left", "error: …" (its event), "broken", or its status if 5xx."""
    prompt = [rng.randrange(1000, 20000) for _ in range(rng.randrange(4, 64))]
    asked = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 1, "stream": True, "ignore_eos": True}
    asked["stream_options"] = {"include_usage": True}
    body = json.dumps(asked).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return "refused"
    try:
        writer.write(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if leave is not None:
            try:
                await asyncio.wait_for(reader.read(-1), leave)
            except TimeoutError:
                return "left"
            return "complete"
        seen = b""
        while part := await reader.read(64 if slow else 65536):
            seen += part
            if slow:
                await asyncio.sleep(0.02)
        return _outcome(seen, tokens)
    except OSError:
        return "broken"
    finally:
        writer.close()


def _outcome(answer: bytes, tokens: int) -> str:
    status = int(answer[9:12] or b"0")
    if status != 200:
        return "refused" if status == 429 else str(status)
    failed = re.search(rb'^data: (\{"error".*)$', answer, re.M)  # a token's text may well be `error`
    if failed:
        return f"error: {failed[1].decode()[:300]}"
    counts = re.findall(rb'"completion_tokens": ?(\d+)', answer)
    return "complete" if counts and int(counts[-1]) == tokens and b"data: [DONE]" in answer else "broken"


async def load(server: Server, clients: int, seconds: float) -> tuple[Counter[str], list[float]]:
    """Counts of what became of requests, and the memory every 10 s."""
    outcomes: Counter[str] = Counter()
    memory: list[float] = []
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            outcomes[await stream(server.port, rng)] += 1

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(round(server.memory(), 1))
            print(f"{seconds - (end - time.monotonic()):5.0f} s  {dict(outcomes)}  {memory[-1]:.0f} MB", flush=True)
            await asyncio.sleep(min(10, max(0.1, end - time.monotonic())))

    await asyncio.gather(watch(), *(client(i) for i in range(clients)))
    return outcomes, memory


async def leavers(server: Server, count: int) -> Counter[str]:
    rng, gate = random.Random(1), asyncio.Semaphore(100)

    async def one(wait: float) -> str:
        async with gate:
            return await stream(server.port, rng, tokens=200, leave=wait)

    return Counter(await asyncio.gather(*(one(rng.expovariate(4)) for _ in range(count))))


async def killed(server: Server) -> dict[str, object]:
    rng, moments = random.Random(2), []

    async def client() -> str:
        outcome = await stream(server.port, rng, tokens=4000)
        moments.append(time.monotonic())
        return outcome

    readers = [asyncio.create_task(client()) for _ in range(50)]
    while (await server.figures())["num_requests_running"] < 20:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    os.kill(server.engine(), signal.SIGKILL)
    at = time.monotonic()
    outcomes = Counter(await asyncio.gather(*readers))
    await server.ready()
    ready = time.monotonic() - at
    return {
        "outcomes": dict(outcomes), "last_told_s": round(max(moments) - at, 2), "ready_s": round(ready, 2),
        "answers": await stream(server.port, rng),
    }  # fmt: skip


async def settled(server: Server) -> dict[str, float]:
    """What is left once there is nothing to do."""
    for _ in range(100):
        found = await server.figures()
        if not found["num_requests_running"] and not found["num_requests_waiting"]:
            break
        await asyncio.sleep(0.1)
    return found


async def main(given: argparse.Namespace) -> int:
    server = Server(given.repository, given.clients)
    try:
        await server.ready()
        found: dict[str, object] = {}
        outcomes, memory = await load(server, given.clients, given.seconds)
        found["load"] = {"clients": given.clients, "seconds": given.seconds, **outcomes, "MB": memory}
        found["left_after_load"] = left = [await settled(server)]
        found["leavers"] = await leavers(server, given.leavers)
        left.append(await settled(server))
        slow = [stream(server.port, random.Random(i), tokens=100, slow=True) for i in range(20)]
        beside = [stream(server.port, random.Random(i)) for i in range(20)]
        begin = time.monotonic()
        fast = await asyncio.gather(*beside[:1])
        done = await asyncio.gather(*slow, *beside[1:])
        found["slow"] = {**Counter([*fast, *done]), "seconds": round(time.monotonic() - begin, 1)}
        left.append(await settled(server))
        found["MB_at_the_end"] = round(server.memory(), 1)
        found["killed"] = told = await killed(server)
        print(json.dumps(found), flush=True)
    finally:
        server.process.terminate()
        server.process.wait(60)
    late = memory[6:] or memory
    allowed = {"complete", "refused", "left", "seconds", "clients", "MB"}
    wrong = [key for part in ("load", "leavers", "slow") for key in found[part] if key not in allowed]  # type: ignore[attr-defined]
    leaked = [figures for figures in left if figures["num_requests_running"] or figures["num_requests_waiting"]]
    grew = max(late) > 1.1 * late[0]
    return int(bool(wrong or leaked or grew or told["answers"] != "complete"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--leavers", type=int, default=1000)
    sys.exit(asyncio.run(main(parser.parse_args())))
