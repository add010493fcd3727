"""What a GGUF file says of its model's name and licence, as the front matter of a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = {  # of a model card, and the metadata key that gives it
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
    "model_name": "general.name",
    "model_creator": "general.organization",
    "language": "general.languages",
    "datasets": "general.datasets",
}


def model_card(metadata: Mapping[str, Any]) -> bytes | None:
    """README.md with front matter and no text; None if the metadata says nothing of all this."""
    found = {field: metadata[key] for field, key in FIELDS.items() if isinstance(metadata.get(key), (str, list))}
    if not found:
        return None
    return f"---\n{yaml.safe_dump(found, sort_keys=False, allow_unicode=True)}---\n".encode()
