"""Makes the repositories of a recipe: each member by `convert`, measured, with card, licences and checksums."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.convert import ConvertOptions, convert
from halfbyte.errors import OutputError, PublishError, TokenizerError
from halfbyte.publish.card import Facts, model_card
from halfbyte.publish.licences import licence_files, licences_of
from halfbyte.publish.measure import perplexity_beside, run_programs
from halfbyte.publish.result import MemberResult
from halfbyte.quantize.card import model_name, original_card, prompt_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.checkpoint.source import Source
    from halfbyte.convert.request import ConvertReport
    from halfbyte.publish.recipe import Member, Recipe, Repository

CHECKSUMS = "SHA256SUMS"
REPORT = "publish_report.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CHUNK = 1 << 20


def build(
    recipe: Recipe, out: Path, *, overwrite: bool = False, tell: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Write every repository of the recipe beneath OUT and return their folders: NAME for main, NAME@BRANCH for others.

    Raises OutputError, before anything is made, if a folder holds a README.md and `overwrite` is not given.
    """
    source = open_source(recipe.source)
    facts = gather(recipe, source)
    folders = {(r.repo, branch): folder_of(out, r, branch) for r in recipe.repositories for branch in r.branches}
    if not overwrite:
        for folder in folders.values():
            refuse_readme(folder)
    notes = licence_files(source)
    for repository in recipe.repositories:
        results = [
            _make(recipe, facts, member, folders[repository.repo, member.branch], overwrite, tell)
            for member in repository.members
        ]
        card = model_card(recipe, repository, results, facts)
        for branch in repository.branches:
            folder = folders[repository.repo, branch]
            files = {
                **notes,
                "README.md": card.encode(),
                REPORT: json.dumps([r.as_dict() for r in results if r.member.branch == branch], indent=2).encode(),
            }
            for name, contents in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
            write_checksums(folder)
            tell(f"{folder}: complete")
    return list(folders.values())


def gather(recipe: Recipe, source: Source) -> Facts:
    """What the card says of the model: from the recipe, else from the source and its card."""
    front, original = original_card(source)
    base = recipe.base_model or (recipe.source.partition("@")[0] if _HUB_ID.fullmatch(recipe.source) else None)
    if base is not None and not _HUB_ID.fullmatch(base):
        raise PublishError(f"base_model: {base!r} is not a Hub id such as org/name")
    datasets = front.get("datasets")
    creator = recipe.creator or front.get("model_creator")
    return Facts(
        name=recipe.name or model_name(source, front),
        model_type=Checkpoint(source).config.model_type,
        base_model=base,
        creator=None if creator is None else str(creator),
        creator_link=recipe.creator_link or (f"https://huggingface.co/{base.split('/')[0]}" if base else None),
        prompt_template=_template(recipe, source),
        licences=licences_of(front, recipe.licences),
        licence_files=sorted(licence_files(source)),
        datasets=recipe.datasets or (tuple(datasets) if isinstance(datasets, list) else ()),
        original_card=original,
        language=front.get("language"),
    )


def _template(recipe: Recipe, source: Source) -> str | None:
    """The recipe's, or what the source's tokenizer renders. Raises PublishError where both are there and differ."""
    try:
        rendered = prompt_template(Tokenizer.from_source(source))
    except TokenizerError:
        rendered = None
    given = recipe.prompt_template
    if given is None:
        return rendered
    if "{prompt}" not in given:
        raise PublishError("prompt_template: must hold {prompt}, where the user's words go")
    if rendered is not None and given.strip() != rendered.strip():  # `publish check` would find it, after all the work
        raise PublishError(
            f"prompt_template: is {given!r:.120}, but the chat template of {source.spec} gives {rendered!r:.120}; "
            "leave the field out, or put the right template into the source's tokenizer_config.json"
        )
    return given


def folder_of(out: Path, repository: Repository, branch: str) -> Path:
    """Where a branch of a repository is built."""
    name = repository.repo.rpartition("/")[2]
    return out / (name if branch == "main" else f"{name}@{branch}")


def refuse_readme(folder: Path) -> None:
    """Raise OutputError if a folder has a card that somebody may have written by hand."""
    if (folder / "README.md").exists():
        raise OutputError(
            f"{folder / 'README.md'} is already there; pass --overwrite to replace it, or choose another OUT"
        )


def _make(
    recipe: Recipe, facts: Facts, member: Member, folder: Path, overwrite: bool, tell: Callable[[str], None]
) -> MemberResult:
    tell(f"{folder.name}: making {member.format}")
    file = None
    place = folder
    if member.kind == "gguf":
        stem = re.sub(r"[^\w.]+", "-", facts.name).strip("-").lower()
        file = f"{stem}.{member.format.partition(':')[2].upper()}.gguf"
        place = folder / file
    options = ConvertOptions(
        imatrix=member.imatrix, calib=member.calib, samples=member.samples, seq_len=member.seq_len, overwrite=overwrite
    )
    report = convert(recipe.source, place, member.format, options)
    result = MemberResult(member, file, report.out_bytes, report.bits_per_weight, _group_size(place, report))
    if recipe.evaluation is not None:
        tell(f"{folder.name}: measuring {member.format}")
        found = perplexity_beside(place, recipe.source, recipe.evaluation)
        result.perplexity, result.reference_perplexity = found.perplexity, found.reference_perplexity
        result.kl_divergence = found.kl_divergence
    result.tried, result.memory = run_programs(place, member.kind)
    return result


def _group_size(place: Path, report: ConvertReport) -> int | None:
    container = None if report.format.startswith("gguf") else Checkpoint(open_source(place)).container
    return None if container is None else container.group_size


def write_checksums(folder: Path) -> None:
    """SHA256SUMS of every file, as `sha256sum -c` reads it."""
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != CHECKSUMS and not _hidden(path.relative_to(folder))
    )
    (folder / CHECKSUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names), "utf-8")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
