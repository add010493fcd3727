"""GET /v1/models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

if TYPE_CHECKING:
    from halfbyte.server.models import Models, ServedModel
    from halfbyte.server.settings import ServerSettings


def router(models: Models, settings: ServerSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models")
    async def list_models() -> dict[str, Any]:
        """The models and adapters that are served."""
        return {"object": "list", "data": [_card(model) for model in models.all()]}

    @routes.get("/models/{name:path}")
    async def retrieve_model(name: str) -> dict[str, Any]:
        """One of them."""
        return _card(models.get(name))

    return routes


def _card(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "halfbyte",
        "root": model.source,
        "parent": model.parent,
        "max_model_len": model.max_model_len,
    }
