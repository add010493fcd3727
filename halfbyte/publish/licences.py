"""The licence files of a base model: found, carried along, and named in the card."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from halfbyte.errors import PublishError
from halfbyte.publish.recipe import Licence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from halfbyte.checkpoint.source import Source

# Licences, notices that must be kept with them, and acceptable-use policies
_NAMES = re.compile(
    r"(un)?licen[cs]e|copying|notice|copyright|(acceptable[-_ ]?)?use[-_ ]?policy|responsible[-_ ]?use|terms|eula"
    r"|agreement",
    re.IGNORECASE,
)
_DOCUMENTS = frozenset({"", "txt", "md", "pdf", "rst", "html"})


def is_licence_file(name: str) -> bool:
    """Whether a file of a repository is one that must go where the weights go."""
    base = name.rpartition("/")[2]
    suffix = base.rpartition(".")[2].lower() if "." in base else ""
    return suffix in _DOCUMENTS and _NAMES.match(base) is not None


def licence_files(source: Source) -> dict[str, bytes]:
    """The licence files of a source by their names, subfolders included."""
    found = {name: source.file(name) for name in source.files() if is_licence_file(name)}
    return {name: contents for name, contents in found.items() if contents is not None}


def licences_of(front_matter: Mapping[str, object], own: Sequence[Licence]) -> list[Licence]:
    """The licences that the recipe names, or else the one that the base model's card names.

    Raises PublishError if there is none, or one is `other` without a name.
    """
    licences = list(own)
    if not licences:
        text = {key: front_matter.get(key) for key in ("license", "license_name", "license_link")}
        if not isinstance(text["license"], str):
            raise PublishError(
                "neither the base model's card nor the recipe says under which licence it stands; set license: "
                "(and license_name:, license_link: where it is other)"
            )
        name, link = (str(text[key]) if text[key] else None for key in ("license_name", "license_link"))
        licences = [Licence(text["license"], name, link)]
    return licences


def front_matter_fields(licences: Sequence[Licence], files: Sequence[str]) -> dict[str, str]:
    """The card's license, license_name and license_link. Two licences at once are `other`, with both names.

    files: the licence files that the repository carries; the first stands in for a link that is not given.
    """
    if len(licences) == 1 and licences[0].id != "other":
        return {"license": licences[0].id}
    names = [licence.name or licence.id for licence in licences if licence.name or licence.id != "other"]
    links = [licence.link for licence in licences if licence.link] or list(files)
    slug = "-and-".join(re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in names)
    return {
        "license": "other",
        **({"license_name": slug} if slug else {}),
        **({"license_link": links[0]} if links else {}),
    }
