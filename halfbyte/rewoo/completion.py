"""Models that answer a prompt: one in this process, or any that an OpenAI-compatible server offers."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from halfbyte.errors import HalfbyteError, IntegrationError, ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import httpx

    from halfbyte.engine.llm import LLM

TRY_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer and what it cost."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Model(Protocol):
    """What a planner, a solver and the KnowledgeModel need."""

    async def complete(self, prompt: str, *, max_tokens: int = 512, grammar: str | None = None) -> Completion:
        """The answer to one user message. grammar: Lark, that the answer must follow. Raises ToolError."""

    def stream(self, prompt: str, *, max_tokens: int = 512, grammar: str | None = None) -> AsyncGenerator[str, None]:
        """The same answer in pieces, as they come."""


class LocalModel:
    """An `LLM` of this process, off the event loop; one request at a time, and cancelled within a token."""

    def __init__(self, llm: LLM, *, template: Callable[[str], str] | None = None) -> None:
        """template: a user message to a whole prompt; by default the model's own chat template."""
        self._llm, self._template = llm, template
        self._busy: asyncio.Lock | None = None
        self.last = Completion("")  # of the latest stream, once it has ended

    async def complete(self, prompt: str, *, max_tokens: int = 512, grammar: str | None = None) -> Completion:
        """The whole answer."""
        async with aclosing(self.stream(prompt, max_tokens=max_tokens, grammar=grammar)) as pieces:
            text = "".join([piece async for piece in pieces])
        return Completion(text, self.last.prompt_tokens, self.last.completion_tokens)

    async def stream(
        self, prompt: str, *, max_tokens: int = 512, grammar: str | None = None
    ) -> AsyncGenerator[str, None]:
        """The answer in pieces. Closing the generator ends the request before it returns."""
        self._busy = self._busy or asyncio.Lock()
        async with self._busy:
            pieces: asyncio.Queue[str | BaseException | Completion] = asyncio.Queue()
            loop, stop = asyncio.get_running_loop(), threading.Event()
            thread = asyncio.ensure_future(
                asyncio.to_thread(
                    self._work, prompt, max_tokens, grammar, stop,
                    lambda item: loop.call_soon_threadsafe(pieces.put_nowait, item),
                )
            )  # fmt: skip
            try:
                while isinstance(piece := await pieces.get(), str):
                    yield piece
                if isinstance(piece, BaseException):
                    raise piece
                self.last = piece
            finally:
                stop.set()
                await _outlast(thread)

    def _work(
        self, prompt: str, max_tokens: int, grammar: str | None, stop: threading.Event, put: Callable[[Any], Any]
    ) -> None:
        try:
            token_ids = self._token_ids(prompt)
            deltas: Any = self._llm.stream({"prompt_token_ids": token_ids}, _greedy(max_tokens, grammar))
            count = 0
            for delta in deltas:
                count += 1
                put(delta.text)
                if stop.is_set():
                    deltas.close()
                    break
            put(Completion("", len(token_ids), count))
        except HalfbyteError as e:
            put(ToolError(str(e)))
        except BaseException as e:  # whatever it is, the other side must not wait for ever
            put(e)

    def _token_ids(self, prompt: str) -> list[int]:
        if self._template:
            return self._llm.get_tokenizer().encode(self._template(prompt))
        return self._llm.chat_prompt([{"role": "user", "content": prompt}]).token_ids


class Endpoint:
    """A model behind `BASE/chat/completions`, as OpenAI, vLLM, llama.cpp and halfbyte serve it."""

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        grammar_field: str | None = None,
    ) -> None:
        """base_url: up to and with /v1. It is not guarded: it is the program's own choice, not a stranger's.

        model: None takes the first that the server lists. timeout: seconds. grammar_field: where in a request this
        server takes a grammar ("grammar" for llama.cpp); None asks without one, for servers refuse what they do not
        know, except where the list says that it is halfbyte's own.
        """
        self._base, self._url = base_url.rstrip("/"), base_url.rstrip("/") + "/chat/completions"
        self._model, self._timeout = model, timeout
        self._grammar_field = grammar_field
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def complete(self, prompt: str, *, max_tokens: int = 512, grammar: str | None = None) -> Completion:
        """The whole answer."""
        async with self._client() as client:
            try:
                await self._find_model(client)
                response = await client.post(self._url, json=self._request(prompt, max_tokens, grammar))
            except _httpx().HTTPError as e:
                raise self._unreachable(e) from e
            self._check(response)
            try:
                answer = response.json()
                text, usage = answer["choices"][0]["message"]["content"] or "", answer.get("usage") or {}
                return Completion(str(text), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
                raise ToolError(f"{self._url}: not a chat completion: {response.text!r:.100}") from e

    async def stream(
        self, prompt: str, *, max_tokens: int = 512, grammar: str | None = None
    ) -> AsyncGenerator[str, None]:
        """The answer in pieces."""
        try:
            async with self._client() as client:
                await self._find_model(client)
                request = {**self._request(prompt, max_tokens, grammar), "stream": True}
                async with client.stream("POST", self._url, json=request) as response:
                    if response.status_code != 200:
                        await response.aread()
                    self._check(response)
                    async for line in response.aiter_lines():
                        data = line[5:].strip() if line.startswith("data:") else "[DONE]"
                        if data != "[DONE]" and (piece := self._piece(data)):
                            yield piece
        except _httpx().HTTPError as e:
            raise self._unreachable(e) from e

    async def _find_model(self, client: httpx.AsyncClient) -> None:
        if self._model is not None:
            return
        response = await client.get(f"{self._base}/models")
        self._check(response)
        try:
            first = response.json()["data"][0]
            self._model = str(first["id"])
            if first.get("owned_by") == "halfbyte":
                self._grammar_field = self._grammar_field or "guided_grammar"
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
            raise ToolError(f"{self._base}/models: not a list of models: {response.text!r:.100}") from e

    def _piece(self, data: str) -> str:
        try:
            choices = json.loads(data)["choices"]
            return str(choices[0]["delta"].get("content") or "") if choices else ""
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
            raise ToolError(f"{self._url}: not a piece of a chat completion: {data!r:.100}") from e

    def _request(self, prompt: str, max_tokens: int, grammar: str | None) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        return request | ({self._grammar_field: grammar} if grammar and self._grammar_field else {})

    def _client(self) -> httpx.AsyncClient:
        client: httpx.AsyncClient = _httpx().AsyncClient(timeout=self._timeout, headers=self._headers)
        return client

    def _check(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            raise ToolError(
                f"{response.url}: status {response.status_code}: {response.text!r:.200}",
                retryable=response.status_code in TRY_AGAIN,
            )

    def _unreachable(self, error: Exception) -> ToolError:
        return ToolError(f"{self._url}: {type(error).__name__}: {error}", retryable=True)


async def _outlast(work: asyncio.Future[None]) -> None:
    """Wait until it has ended, even if we are cancelled meanwhile; then be cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled:
        raise cancelled


def _greedy(max_tokens: int, grammar: str | None) -> Any:
    from halfbyte.engine.sampling_params import SamplingParams  # noqa: PLC0415  torch comes with the engine

    knows = "grammar" in SamplingParams.__dataclass_fields__
    options: dict[str, Any] = {"grammar": grammar} if grammar and knows else {}
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **options)


def _httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415  an extra
    except ImportError:
        raise IntegrationError("an endpoint needs httpx: pip install 'halfbyte[rewoo]'") from None
    return httpx
