"""`AsyncEngine`: the engine in a process of its own, for programs with an event loop.

What holds the loop up (a slow client, a parser) never holds up a step, and a crash of the engine is not theirs.
"""

from __future__ import annotations

import asyncio
import random
import weakref
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.open import open_source
from halfbyte.engine.admission import check_params, check_pooling, check_service, prompt_of
from halfbyte.engine.answer_stream import AnswerStream
from halfbyte.engine.collector import Collector
from halfbyte.engine.engine_process import EngineProcess
from halfbyte.engine.llm import load_tokenizer
from halfbyte.engine.messages import Abort, Add, BeginAgain, Call, Events, Ready, Reply
from halfbyte.engine.prompt import ReadPrompt, read_prompt
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.engine.stats import Stats
from halfbyte.errors import EngineStoppedError, QueueFullError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.answer_stream import Observer
    from halfbyte.engine.link import Link, OnEnd, OnMessage, Standing
    from halfbyte.engine.outputs import RequestOutput
    from halfbyte.engine.prompt import Prompt
    from halfbyte.engine.request import Pooling

    Observe = Callable[[ReadPrompt, SamplingParams], Observer]


class AsyncEngine:
    """Use it in one event loop: `async with AsyncEngine(model) as engine: async for delta in engine.generate(...)`."""

    def __init__(
        self,
        model: str | Path,
        *,
        max_requests: int = 256,
        max_prompt_len: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """settings: those of LLM. max_requests: in the engine at once, waiting or not; more are refused.

        max_prompt_len: tokens of a prompt; by default as many as the context has room for.
        """
        self.max_requests, self.max_prompt_len = max_requests, max_prompt_len
        self.stats = Stats()
        self.max_model_len = 0
        self._restarts = 0
        self._settings = {"model": model, **settings}
        self._tokenizer: Tokenizer | None = None
        self._seeds = random.Random(seed)
        self._numbers = count(1)
        self._streams: weakref.WeakValueDictionary[str, AnswerStream] = weakref.WeakValueDictionary()
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._adapters: dict[str, str] = {}  # folders, by name
        self.observe: Observe | None = None  # asked for an observer of each request that is taken
        self._process: Link | None = None
        self._ready: asyncio.Future[None] | None = None
        self._refusal: str | None = "the engine is not started: await start()"

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, once the engine is started."""
        assert self._tokenizer is not None, "await start()"
        return self._tokenizer

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded and requests are taken."""
        return self._refusal is None and self._ready is not None and self._ready.done()

    @property
    def is_lost(self) -> bool:
        """Whether the process has ended and will not be started again."""
        return self._process is None and self._ready is not None

    @property
    def unfinished(self) -> int:
        """Requests in the engine."""
        return len(self._streams)

    @property
    def restarts(self) -> int:
        """Starts after a crash."""
        return self._restarts

    @property
    def replicas(self) -> Sequence[Standing]:
        """The engines that answer: one."""
        return [self]

    @property
    def pid(self) -> int | None:
        """Of the engine's process."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until the model is loaded. Raises the HalfbyteError that prevents it."""
        source = await asyncio.to_thread(open_source, self._settings["model"])
        given = self._settings.get("tokenizer"), self._settings.get("chat_template")
        self._tokenizer = await asyncio.to_thread(load_tokenizer, source, *given)
        self._refusal = None
        self._launch()
        assert self._ready is not None
        await self._ready

    async def ready(self) -> None:
        """Wait until the engine is up, also after a crash. Raises what prevents it."""
        if self._ready is None:
            raise EngineStoppedError(self._refusal or "the engine is not started")
        await asyncio.shield(self._ready)

    def generate(
        self,
        prompt: Prompt | ReadPrompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        adapter: str | None = None,
        whole: bool = False,
    ) -> AnswerStream:
        """Queue a request at once; the stream gives its steps. See Engine.add.

        whole: the answer may begin again if an engine ends and there is another (see AnswerStream.restarts).

        Raises QueueFullError or EngineStoppedError if it is not taken. A RequestError of what only the engine can
        check comes as the first thing of the stream.
        """
        return self._submit(
            prompt, SamplingParams() if params is None else params, request_id, priority, adapter, None, whole=whole
        )

    async def complete(
        self, prompt: Prompt | ReadPrompt, params: SamplingParams | None = None, **options: Any
    ) -> RequestOutput:
        """The whole output. options: those of `generate`."""
        params = SamplingParams() if params is None else params
        check_params(params)
        read = self._read(prompt)
        ids, seen = prompt_of(read.token_ids, params), 0
        collector = Collector(read.text, ids, params)
        async with self.generate(read, params, whole=True, **options) as stream:
            async for delta in stream:
                if stream.restarts > seen:
                    seen, collector = stream.restarts, Collector(read.text, ids, params)
                collector.add(delta)
        return collector.output()

    async def embed(
        self, prompt: Prompt | ReadPrompt, pooling: Pooling = "last", *, adapter: str | None = None
    ) -> torch.Tensor:
        """The prompt's hidden state, float32 [D]; see LLM.embed."""
        check_pooling(pooling)
        async with self._submit(prompt, SamplingParams(), None, 0, adapter, pooling) as stream:
            return torch.from_numpy(await stream.next())

    def chat_prompt(self, messages: list[dict[str, Any]], **variables: Any) -> ReadPrompt:
        """A conversation as the model's chat template writes it. variables: for the template, such as tools."""
        text = self.tokenizer.render_chat(messages, **variables)
        return ReadPrompt(text, self.tokenizer.encode(text, add_special_tokens=False))

    def abort(self, request_id: str) -> None:
        """End a request from elsewhere; its stream raises EngineStoppedError."""
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.put(EngineStoppedError(f"request {request_id} was aborted"))
            self._close(request_id)

    async def load_adapter(self, name: str, folder: str | Path) -> None:
        """See LLM.load_adapter. After a crash it is loaded again, before any request is read."""
        await self._call("load_adapter", name, str(folder))
        self._adapters[name] = str(folder)

    async def unload_adapter(self, name: str) -> None:
        """See LLM.unload_adapter."""
        await self._call("unload_adapter", name)
        self._adapters.pop(name, None)

    async def drain(self, timeout: float = 30.0) -> None:
        """Take no more requests, and wait until those that are there have ended; after `timeout` seconds end them."""
        self._refusal = "the engine is about to stop and takes no more requests"
        deadline = asyncio.get_running_loop().time() + timeout
        while self._streams and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        self._fail_all(EngineStoppedError(f"the engine stopped; the request was not finished within {timeout:g} s"))

    async def stop(self) -> None:
        """End the process, and all requests."""
        self._refusal = "the engine is stopped"
        self._fail_all(EngineStoppedError("the engine was stopped"))
        process, self._process, self._ready = self._process, None, None
        if process is not None:
            await asyncio.to_thread(process.stop)

    async def __aenter__(self) -> AsyncEngine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _submit(
        self,
        prompt: Prompt | ReadPrompt,
        params: SamplingParams,
        request_id: str | None,
        priority: int,
        adapter: str | None,
        pooling: Pooling | None,
        *,
        whole: bool = False,
    ) -> AnswerStream:
        if self._refusal is not None or self._process is None:
            raise EngineStoppedError(self._refusal or "the engine is stopped")
        if len(self._streams) >= self.max_requests:
            raise QueueFullError(
                f"{len(self._streams)} requests are waiting or being answered, the most that are taken (max_requests); "
                "try again later"
            )
        check_params(params)
        check_service(priority, adapter)
        read = self._read(prompt)
        length = len(prompt_of(read.token_ids, params))
        if self.max_prompt_len is not None and length > self.max_prompt_len:
            raise RequestError(f"the prompt has {length} tokens, and at most {self.max_prompt_len} are taken")
        request_id = request_id or f"request-{next(self._numbers)}"
        seed = self._seeds.getrandbits(63) if params.seed is None else params.seed
        if request_id in self._streams:
            raise RequestError(f"there is a request {request_id!r} already; choose another request_id")
        stream = AnswerStream(request_id, params.drawn, self._close)
        if self.observe is not None:
            stream.observer = self.observe(read, params)
        self._streams[request_id] = stream
        self._process.send(Add(request_id, read.token_ids, params, seed, priority, adapter, pooling, whole))
        return stream

    def _read(self, prompt: Prompt | ReadPrompt) -> ReadPrompt:
        return prompt if isinstance(prompt, ReadPrompt) else read_prompt(prompt, self.tokenizer)

    def _close(self, request_id: str) -> None:
        self._streams.pop(request_id, None)
        if self._process is not None:
            self._process.send(Abort(request_id))  # of what has ended it knows nothing any more

    async def _call(self, method: str, *arguments: Any) -> None:
        await self.ready()
        await self._send_call(method, *arguments)

    def _send_call(self, method: str, *arguments: Any) -> asyncio.Future[None]:
        if self._process is None:
            raise EngineStoppedError("the engine is stopped")
        number = next(self._numbers)
        reply = self._calls[number] = asyncio.get_running_loop().create_future()
        self._process.send(Call(number, method, arguments))
        return reply

    def _launch(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()

        def hand(what: Any, *arguments: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(what, *arguments)

        process = self._connect(lambda message: hand(self._take, message), lambda: hand(self._ended, process))
        self._process = process

    def _connect(self, on_message: OnMessage, on_end: OnEnd) -> Link:
        return EngineProcess(self._settings, on_message, on_end)

    def _take(self, message: Any) -> None:
        if isinstance(message, Events):
            self.stats = message.stats
            for request_id, result in message.results:
                stream = self._streams.get(request_id)
                if stream is not None:
                    stream.begin_again() if isinstance(result, BeginAgain) else stream.put(result)
        elif isinstance(message, Reply):
            reply = self._calls.pop(message.number, None)
            if reply is not None and not reply.done():
                reply.set_exception(message.error) if message.error else reply.set_result(None)
        elif isinstance(message, Ready) and self._ready is not None and not self._ready.done():
            self.max_model_len = message.max_model_len
            if message.stopped is None:
                self._ready.set_result(None)
            else:
                self._refusal = f"the engine could not be started: {message.stopped}"
                self._ready.set_exception(message.stopped)

    def _ended(self, process: Link) -> None:
        """The process is gone. If it was at work, begin again; one that cannot start will not start another time."""
        if process is not self._process:
            return
        assert self._ready is not None
        reason = f"the engine's process {process.how_it_ended()}"
        self._fail_all(EngineStoppedError(f"{reason} before the request was answered; it is being started again"))
        self.stats = Stats()
        if self._ready.done() and self._ready.exception() is None:
            self._restarts += 1
            self._launch()
            for name, folder in self._adapters.items():  # the pipe keeps the order: requests come after them
                self._send_call("load_adapter", name, folder).add_done_callback(_retrieve)
            return
        self._process = None
        self._refusal = self._refusal or f"{reason} while it was starting"
        if not self._ready.done():
            self._ready.set_exception(EngineStoppedError(self._refusal))
        self._ready.exception()  # it may be that nobody waits for it

    def _fail_all(self, error: EngineStoppedError) -> None:
        for stream in list(self._streams.values()):
            stream.put(error)
        self._streams.clear()
        for reply in self._calls.values():
            if not reply.done():
                reply.set_exception(error)
        self._calls.clear()


def _retrieve(reply: asyncio.Future[None]) -> None:
    """An adapter that is gone from the disk: requests for it will say so."""
    if not reply.cancelled():
        reply.exception()
