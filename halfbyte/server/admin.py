"""Loading and unloading models and adapters while the server runs. These routes ask for an admin key, and no other.

Whoever has one may make the server read any path that its user may read, and load from the Hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from halfbyte.errors import AdapterError, HalfbyteError
from halfbyte.server.body import StrictRoute
from halfbyte.server.problems import ServerProblem

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.settings import ServerSettings

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w./:@+\-]+$")]
Path = Annotated[str, Field(min_length=1, max_length=4096)]


class NewModel(BaseModel):
    """A model to load."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    source: Path = Field(description="A folder, a .gguf file, pypi:NAME==VERSION or a Hub id.")


class NewAdapter(BaseModel):
    """An adapter to load."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    path: Path = Field(description="A folder in PEFT's format.")
    model: Name | None = Field(None, description="The model that it is for; by default the first.")


class LoadLora(BaseModel):
    """The same in vLLM's words."""

    model_config = ConfigDict(extra="ignore", strict=True)

    lora_name: Name
    lora_path: Path


class UnloadLora(BaseModel):
    """The same in vLLM's words."""

    model_config = ConfigDict(extra="ignore", strict=True)

    lora_name: Name


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["admin"], route_class=StrictRoute)

    @routes.get("/admin/models")
    async def list_models() -> dict[str, Any]:
        """What is served, and how its engines are."""
        return {"models": [_describe(model) for model in models.all()]}

    @routes.post("/admin/models", status_code=201)
    async def load_model(body: NewModel) -> dict[str, Any]:
        """Load a model, set up as those that are served; the answer comes when it takes requests."""
        return _describe(await _told(models.load(body.name, body.source)))

    @routes.delete("/admin/models/{name:path}", status_code=204, response_class=Response)
    async def unload_model(name: str) -> None:
        """Unload a model and its adapters, once its requests have ended (see --drain-seconds)."""
        await models.unload(name, settings.drain_seconds)

    @routes.post("/admin/adapters", status_code=201)
    async def load_adapter(body: NewAdapter) -> dict[str, Any]:
        """Load an adapter; requests then name it as their model."""
        return _describe(await _told(models.load_adapter(body.name, body.path, body.model)))

    @routes.delete("/admin/adapters/{name:path}", status_code=204, response_class=Response)
    async def unload_adapter(name: str) -> None:
        """Unload an adapter; requests that have it end with it."""
        await models.unload_adapter(name)

    @routes.post("/v1/load_lora_adapter", response_class=Response)
    async def load_lora(body: LoadLora) -> Response:
        """vLLM's way to load an adapter."""
        await _told(models.load_adapter(body.lora_name, body.lora_path))
        return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.", media_type="text/plain")

    @routes.post("/v1/unload_lora_adapter", response_class=Response)
    async def unload_lora(body: UnloadLora) -> Response:
        """vLLM's way to unload one."""
        await models.unload_adapter(body.lora_name)
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain")

    return routes


async def _told(loading: Awaitable[ServedModel]) -> ServedModel:
    """What prevents loading is the asker's to mend: 400, in full."""
    try:
        return await loading
    except AdapterError:
        raise
    except (HalfbyteError, OSError) as error:
        raise ServerProblem(400, str(error), code="cannot_load") from error


def _describe(model: ServedModel) -> dict[str, Any]:
    engine = model.engine
    return {
        "name": model.name,
        "source": model.source,
        "adapter_of": model.parent,
        "max_model_len": model.max_model_len,
        "unfinished": engine.unfinished,
        **model.standing(),
    }
