"""The models that a server has, by the names that requests ask for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from halfbyte.engine.async_engine import AsyncEngine
from halfbyte.errors import ConfigError, HalfbyteError
from halfbyte.server.problems import ServerProblem

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.engine.answer_stream import AnswerStream
    from halfbyte.engine.outputs import RequestOutput
    from halfbyte.engine.prompt import Prompt, ReadPrompt
    from halfbyte.engine.request import Pooling
    from halfbyte.engine.sampling_params import SamplingParams


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

    async def embed(self, prompt: Prompt | ReadPrompt, pooling: Pooling = "last") -> torch.Tensor:
        """See AsyncEngine.embed."""
        return await self.engine.embed(prompt, pooling, adapter=self.adapter)


class Models:
    """By name; the first is asked where a face has no name for one."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def add(self, name: str, source: str, *, max_requests: int = 256, **settings: Any) -> ServedModel:
        """Serve a model, once `start` has loaded it. settings: LLM's."""
        if not name or name in self._models:
            raise ConfigError(f"the model name {name!r} is {'taken' if name else 'empty'}; choose another")
        model = ServedModel(name, AsyncEngine(source, max_requests=max_requests, **settings), source)
        self._models[name] = model
        return model

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
        """The model of that name. Raises ModelNotFound."""
        if name is None:
            return self.first
        if name not in self._models:
            raise ModelNotFound(name, self._models)
        return self._models[name]

    @property
    def are_ready(self) -> bool:
        """Whether every engine takes requests."""
        return bool(self._models) and all(model.engine.is_ready for model in self._models.values())

    async def start(self) -> None:
        """Load them, one after the other. Raises what prevents it; none is left running then."""
        try:
            for engine in self._engines():
                await engine.start()
        except (HalfbyteError, OSError):
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the engines."""
        for engine in self._engines():
            await engine.stop()

    def _engines(self) -> list[AsyncEngine]:
        return list({id(model.engine): model.engine for model in self._models.values()}.values())
