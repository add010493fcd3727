"""`--check`: whether a finished repository is whole, fits together, loads, and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.paths import inside
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.engine.llm import LLM
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import HalfbyteError, PublishError
from halfbyte.publish.build import CHECKSUMS, same_template, sha256
from halfbyte.publish.card import check_front_matter
from halfbyte.publish.measure import PROMPT
from halfbyte.quantize.card import prompt_template

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked; `problem` is None where it is in order."""

    what: str
    detail: str
    problem: str | None = None


def check(folder: Path, tell: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Check a folder in order: hashes, card, shapes, template, answers. Nothing stops at a fault.

    Raises PublishError only if there is no such folder.
    """
    if not folder.is_dir():
        raise PublishError(f"{folder}: there is no such folder")
    findings = []

    def look(what: str, work: Callable[[], str]) -> None:
        try:
            finding = Finding(what, work())
        except (HalfbyteError, OSError) as error:
            finding = Finding(what, "", str(error))
        findings.append(finding)
        tell(finding)

    look("hashes", lambda: check_hashes(folder))
    look("card", lambda: _check_card(folder))
    for place in sorted(folder.glob("*.gguf")) or [folder]:
        look(f"shapes of {place.name}", lambda place=place: _check_shapes(place))  # type: ignore[misc]
        look(f"template of {place.name}", lambda place=place: _check_template(folder, place))  # type: ignore[misc]
        look(f"answer of {place.name}", lambda place=place: _check_answer(place))  # type: ignore[misc]
    return findings


def check_hashes(folder: Path) -> str:
    """Hold every file against SHA256SUMS; what is there must be listed and what is listed must be there."""
    path = folder / CHECKSUMS
    if not path.is_file():
        raise PublishError(f"{path} is missing: halfbyte publish writes it; `sha256sum` in the folder can make it")
    listed = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise PublishError(f"{path}, line {number}: not a hash, two spaces and a name")
        listed[name] = digest
    for name, digest in listed.items():
        file = inside(folder, name, str(path))
        if not file.is_file():
            raise PublishError(f"{file} is listed in {CHECKSUMS}, but missing")
        if sha256(file) != digest:
            raise PublishError(f"{file}: its sha256 is not the one in {CHECKSUMS}; it was changed or damaged")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    extra = sorted(name for name in there - listed.keys() - {CHECKSUMS} if not name.startswith("."))
    if extra:
        raise PublishError(f"{folder}: {', '.join(extra[:5])} is not in {CHECKSUMS}")
    return f"{len(listed)} files"


def _check_card(folder: Path) -> str:
    path = folder / "README.md"
    if not path.is_file():
        raise PublishError(f"{path} is missing")
    data = check_front_matter(path.read_text("utf-8"))
    return f"license {data.get('license_name') or data['license']}, base_model {data.get('base_model', 'none')}"


def _check_shapes(place: Path) -> str:
    return f"{sum(1 for _ in Checkpoint(open_source(place)).verify())} tensors, all finite"


def _check_template(folder: Path, place: Path) -> str:
    """The card's prompt_template against what the tokenizer's chat template renders."""
    rendered = prompt_template(Tokenizer.from_source(open_source(place)))
    card = folder / "README.md"
    said = check_front_matter(card.read_text("utf-8")).get("prompt_template") if card.is_file() else None
    if said is not None and rendered is not None and not same_template(str(said), rendered):
        raise PublishError(
            f"{card}: prompt_template is {str(said)!r:.80}, but the template of {place.name} gives {rendered!r:.80}"
        )
    return "as the card says" if rendered is not None else "no chat template"


def _check_answer(place: Path) -> str:
    output = LLM(model=str(place)).generate([PROMPT], SamplingParams(max_tokens=8, temperature=0))[0].outputs[0]
    if not output.text.strip():
        raise PublishError(f"{place}: {PROMPT!r} is answered by nothing")
    return repr(output.text)
