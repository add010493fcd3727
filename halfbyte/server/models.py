"""The models and adapters that a server has, by the names that requests ask for; they come and go while it runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from halfbyte.engine.async_engine import AsyncEngine
from halfbyte.errors import ConfigError, HalfbyteError
from halfbyte.server.fingerprint import fingerprint_of
from halfbyte.server.problems import ServerProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import torch

    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.answer_stream import AnswerStream
    from halfbyte.engine.outputs import RequestOutput
    from halfbyte.engine.prompt import Prompt, ReadPrompt
    from halfbyte.engine.request import Pooling
    from halfbyte.engine.sampling_params import SamplingParams
    from halfbyte.server.observed import Observers

NO_NAMES = frozenset({"tgi", "dummy"})  # what TGI's clients and huggingface_hub's send when they are told no model


class ModelNotFound(ServerProblem):
    """A request names a model that is not served."""

    def __init__(self, name: str, served: Iterable[str]) -> None:
        there = ", ".join(served) or "none"
        super().__init__(404, f"the model {name!r:.200} is not served; served are: {there}", code="model_not_found")
        self.param = "model"


@dataclass(slots=True)
class ServedModel:
    """An engine, or an adapter on it, under a name. Every face asks through this, and through nothing else."""

    name: str
    engine: AsyncEngine
    source: str  # what it was loaded from
    adapter: str | None = None
    parent: str | None = None  # an adapter's model
    stops: tuple[str, ...] = ()  # end an answer to a chat: those of a template that the model was not trained on
    fingerprint: str = ""  # another one, and the same seed may give another answer: see `fingerprint_of`
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self.engine.tokenizer

    @property
    def max_model_len(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.engine.max_model_len

    def generate(self, prompt: Prompt | ReadPrompt, params: SamplingParams, *, priority: int = 0) -> AnswerStream:
        """See AsyncEngine.generate."""
        return self.engine.generate(prompt, params, priority=priority, adapter=self.adapter)

    async def complete(
        self, prompt: Prompt | ReadPrompt, params: SamplingParams, *, priority: int = 0
    ) -> RequestOutput:
        """See AsyncEngine.complete."""
        return await self.engine.complete(prompt, params, priority=priority, adapter=self.adapter)

    def standing(self) -> dict[str, Any]:
        """Whether it takes requests; of several engines, each."""
        found: dict[str, Any] = {"ready": self.engine.is_ready, "restarts": self.engine.restarts}
        if len(self.engine.replicas) > 1:
            found["replicas"] = [
                {"ready": each.is_ready, "restarts": each.restarts, "unfinished": each.unfinished, "pid": each.pid}
                for each in self.engine.replicas
            ]
        return found

    async def embed(self, prompt: Prompt | ReadPrompt, pooling: Pooling = "last") -> torch.Tensor:
        """See AsyncEngine.embed."""
        return await self.engine.embed(prompt, pooling, adapter=self.adapter)


class Models:
    """By name; the first is asked where a face has no name for one."""

    def __init__(self, make_engine: Callable[..., AsyncEngine] = AsyncEngine) -> None:
        """make_engine: called as AsyncEngine would be."""
        self.failure: HalfbyteError | OSError | None = None  # why `start` did not
        self._make_engine = make_engine
        self._models: dict[str, ServedModel] = {}
        self._settings: dict[str, Any] = {}  # of the model that was added last
        self._observers: Observers | None = None
        self._stopping = False
        self._changing = asyncio.Lock()  # one model or adapter at a time is loaded or unloaded

    def add(self, name: str, source: str, *, stops: tuple[str, ...] = (), **settings: Any) -> ServedModel:
        """Serve a model, once `start` has loaded it. settings: AsyncEngine's, and so LLM's."""
        self._check_free(name)
        self._settings = settings
        model = self._make(name, source)
        model.stops = stops
        self._models[name] = model
        return model

    def add_adapter(self, name: str, folder: str | Path, of: str | None = None) -> ServedModel:
        """Serve an adapter on one of the models (by default the first), once `start` has loaded it."""
        self._check_free(name)
        parent = self.get(of)
        adapter = ServedModel(
            name,
            parent.engine,
            str(folder),
            adapter=name,
            parent=parent.name,
            fingerprint=fingerprint_of(str(folder), self._settings),
        )
        self._models[name] = adapter
        return adapter

    async def load(self, name: str, source: str) -> ServedModel:
        """Serve another model, set up as the others are, from now on. Raises the HalfbyteError that prevents it."""
        async with self._changing:
            self._check_free(name)
            model = self._make(name, source)
            try:
                await model.engine.start()
            except BaseException:
                await model.engine.stop()
                raise
            self._models[name] = model
            return model

    async def unload(self, name: str, seconds: float) -> None:
        """Serve a model and its adapters no more, once its requests have ended, or after so many seconds."""
        async with self._changing:
            model = self.get(name)
            if model.adapter is not None:
                raise ServerProblem(400, f"{name!r} is an adapter, not a model", param="name")
            for each in [other for other in self.all() if other.engine is model.engine]:
                del self._models[each.name]
            await model.engine.drain(seconds)
            await model.engine.stop()

    async def load_adapter(self, name: str, folder: str | Path, of: str | None = None) -> ServedModel:
        """Serve an adapter from now on. Raises AdapterError if it cannot be read or does not fit the model."""
        async with self._changing:
            self._check_free(name)
            parent = self.get(of)
            await parent.engine.load_adapter(name, folder)
            return self.add_adapter(name, folder, parent.name)

    async def unload_adapter(self, name: str) -> None:
        """Serve an adapter no more; requests that have it end with it."""
        async with self._changing:
            adapter = self.get(name)
            if adapter.adapter is None:
                raise ServerProblem(400, f"{name!r} is a model, not an adapter", param="name")
            del self._models[name]
            await adapter.engine.unload_adapter(name)

    def watch(self, observers: Observers) -> None:
        """Have every request observed, also those of models to come."""
        self._observers = observers
        for model in self._models.values():
            self._observe(model)

    def _make(self, name: str, source: str) -> ServedModel:
        model = ServedModel(name, self._make_engine(source, **self._settings), source)
        model.fingerprint = fingerprint_of(source, self._settings)
        self._observe(model)
        return model

    def _observe(self, model: ServedModel) -> None:
        if self._observers is not None and model.adapter is None:
            model.engine.observe = partial(self._observers.watch, model.name)

    def _check_free(self, name: str) -> None:
        if not name or name in self._models:
            raise ConfigError(f"the model name {name!r} is {'taken' if name else 'empty'}; choose another")

    @property
    def names(self) -> list[str]:
        """What requests may ask for."""
        return list(self._models)

    def all(self) -> list[ServedModel]:
        """Models and adapters."""
        return list(self._models.values())

    @property
    def first(self) -> ServedModel:
        """The one for faces whose requests name none."""
        if not self._models:
            raise ModelNotFound("", ())
        return next(iter(self._models.values()))

    def get(self, name: str | None) -> ServedModel:
        """The model of that name; the first for none, or for one that stands for none. Raises ModelNotFound."""
        if name is None or (name in NO_NAMES and name not in self._models):
            return self.first
        if name not in self._models:
            raise ModelNotFound(name, self._models)
        return self._models[name]

    @property
    def are_ready(self) -> bool:
        """Whether every engine takes requests."""
        return not self._stopping and bool(self._models) and all(engine.is_ready for engine in self._engines())

    @property
    def are_lost(self) -> bool:
        """Whether an engine has ended for good, though nobody stopped it."""
        return not self._stopping and any(engine.is_lost for engine in self._engines())

    @property
    def unfinished(self) -> int:
        """Requests in all engines."""
        return sum(engine.unfinished for engine in self._engines())

    async def start(self) -> None:
        """Load them, one after the other. Raises what prevents it; none is left running then."""
        try:
            for engine in self._engines():
                await engine.start()
            for model in self.all():
                if model.adapter is not None:
                    await model.engine.load_adapter(model.adapter, model.source)
        except (HalfbyteError, OSError) as error:
            self.failure = error
            await self.stop()
            raise

    async def drain(self, seconds: float) -> None:
        """Take no more requests, and wait until all have ended; after so many seconds end them."""
        self._stopping = True
        await asyncio.gather(*(engine.drain(seconds) for engine in self._engines()))

    async def stop(self) -> None:
        """End the engines."""
        for engine in self._engines():
            await engine.stop()

    def _engines(self) -> list[AsyncEngine]:
        return list({id(model.engine): model.engine for model in self._models.values()}.values())
