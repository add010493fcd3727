"""The model card: README.md with its YAML front matter, made of a recipe and of what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard

from halfbyte.errors import PublishError
from halfbyte.publish.card_code import code_sections
from halfbyte.publish.card_table import table
from halfbyte.publish.licences import front_matter_fields
from halfbyte.publish.snippets import ABOUT, REPOSITORY_LINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.publish.recipe import Licence, Recipe, Repository
    from halfbyte.publish.result import MemberResult

HUB = "https://huggingface.co"
_FIRST_NUMBER = re.compile(r"\d+")  # of gguf:Q4_K_M: its bits
_TAGS = {"awq": ["awq", "4-bit"], "gguf": ["gguf"], "gptq": ["gptq"], "compressed-tensors": ["compressed-tensors"]}
_LIBRARIES = {"gguf": "gguf"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card says of the model itself; `build` gathers it from recipe and source."""

    name: str
    model_type: str
    base_model: str | None
    creator: str | None
    creator_link: str | None
    prompt_template: str | None
    licences: Sequence[Licence]
    licence_files: Sequence[str]
    datasets: Sequence[str]
    original_card: str
    language: object = None


def model_card(recipe: Recipe, repository: Repository, results: Sequence[MemberResult], facts: Facts) -> str:
    """README.md of one repository. Raises PublishError if its front matter would not hold on the Hub."""
    title = ABOUT[repository.kind][0]
    sections = [
        *([recipe.header.strip()] if recipe.header else []),
        f"# {facts.name} - {title}\n\n{_lineage(facts)}",
        f"## Description\n\nThis repo contains {title} model files for {_linked(facts)}.",
        f"### About {title}\n\n{ABOUT[repository.kind][1]}",
        f"## Repositories available\n\n{_family(recipe, facts)}",
        *_prompt(recipe, facts),
        f"## Licensing\n\n{_licensing(recipe, facts)}",
        f"## Provided files and {title} parameters\n\n{table(recipe, repository, results)}",
        *code_sections(repository, results, facts.prompt_template),
        f"## Compatibility\n\n{_compatibility(results)}",
        *(f"## {heading}\n\n{text.strip()}" for heading, text in recipe.sections.items()),
        *([f"# Original model card: {_whose(facts)}\n\n{facts.original_card}"] if facts.original_card else []),
    ]
    metadata = yaml.safe_dump(front_matter(recipe, repository, facts), sort_keys=False, allow_unicode=True, width=120)
    card = f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"
    check_front_matter(card)
    return card


def front_matter(recipe: Recipe, repository: Repository, facts: Facts) -> dict[str, Any]:
    """The card's metadata, in the order in which people read it."""
    bits = {result for member in repository.members if (result := _bits_tag(member.format)) is not None}
    fields = {
        **front_matter_fields(facts.licences, facts.licence_files),
        "language": facts.language,
        "datasets": list(facts.datasets) or None,
        "model_name": facts.name,
        "base_model": facts.base_model,
        "base_model_relation": "quantized" if facts.base_model and repository.kind not in {"fp16", "bf16"} else None,
        "inference": recipe.inference,
        "model_creator": facts.creator,
        "model_type": facts.model_type,
        "pipeline_tag": "text-generation",
        "library_name": _LIBRARIES.get(repository.kind, "transformers"),
        "prompt_template": facts.prompt_template,
        "quantized_by": recipe.quantized_by,
        "tags": list(dict.fromkeys([*_TAGS.get(repository.kind, []), *sorted(bits), "halfbyte"])),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _bits_tag(form: str) -> str | None:
    settings = form.partition(":")[2]
    return f"{settings[0]}-bit" if settings[1:4] == "bit" else None


def check_front_matter(card: str) -> dict[str, Any]:
    """Read a card as the Hub's own library does. Raises PublishError for metadata that it refuses or that is missing.

    What only the Hub's server checks, `upload` asks it.
    """
    try:
        data: dict[str, Any] = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise PublishError(f"README.md: its front matter is not valid: {error}") from error
    if not data.get("license"):
        raise PublishError("README.md: its front matter names no license")
    if data["license"] == "other" and not data.get("license_name"):
        raise PublishError(
            "README.md: license: other needs license_name: (and license_link:, or a licence file); "
            "set them in the recipe"
        )
    return data


def _lineage(facts: Facts) -> str:
    creator = facts.creator or "unknown"
    if facts.creator_link:
        creator = f"[{creator}]({facts.creator_link})"
    return f"- Model creator: {creator}\n- Original model: {_model_link(facts, facts.name)}"


def _linked(facts: Facts) -> str:
    return _model_link(facts, _whose(facts))


def _whose(facts: Facts) -> str:
    return f"{facts.creator}'s {facts.name}" if facts.creator else facts.name


def _model_link(facts: Facts, text: str) -> str:
    return f"[{text}]({HUB}/{facts.base_model})" if facts.base_model else text


def _family(recipe: Recipe, facts: Facts) -> str:
    lines = [f"* [{r.about or _about(r)}]({HUB}/{r.repo})" for r in recipe.repositories]
    if facts.base_model:
        whose = f"{facts.creator}'s original" if facts.creator else "The original"
        lines.append(
            f"* [{whose} unquantised model, for GPU inference and for further conversions]({HUB}/{facts.base_model})"
        )
    return "\n".join(lines)


def _about(repository: Repository) -> str:
    """A repository's line among its family: what it has, and no more."""
    line = REPOSITORY_LINES[repository.kind]
    if repository.kind == "gptq" and len(repository.members) == 1:
        return "GPTQ model for GPU inference."
    if repository.kind != "gguf":
        return line
    *others, last = sorted({int(n) for member in repository.members for n in _FIRST_NUMBER.findall(member.format)[:1]})
    return line.format(bits=f"{', '.join(map(str, others))} and {last}" if others else str(last))


def _prompt(recipe: Recipe, facts: Facts) -> list[str]:
    if facts.prompt_template is None:
        return ["## Prompt template\n\nNone: the model continues plain text."]
    heading = "## Prompt template" + (f": {recipe.prompt_name}" if recipe.prompt_name else "")
    return [
        f"{heading}\n\n```\n{facts.prompt_template}\n```\n\n`{{prompt}}` stands for what the user says; all else "
        "is written as it is, spaces and line ends included. Programs that speak of chats and messages take the same "
        "from the tokenizer's chat template."
    ]


def _licensing(recipe: Recipe, facts: Facts) -> str:
    names = [licence.name or licence.id for licence in facts.licences]
    own = facts.licences[0].id
    parts = [
        f"The creator of the source model has listed its license as `{own}`, and this quantization has therefore used "
        "that same license."
    ]
    if len(names) > 1:
        others = " and ".join(names[1:])
        included = ", and the license files for that are additionally included" if facts.licence_files else ""
        parts.append(
            f"It is also subject to the {others} license terms{included}. It should therefore be considered as being "
            f"claimed to be licensed under {'both licenses' if len(names) == 2 else 'all of these licenses'}."
        )
    links = [f"* [{licence.name or licence.id}]({licence.link})" for licence in facts.licences if licence.link]
    parts += ["\n".join(links)] if links else []
    if facts.licence_files:
        listed = "\n".join(f"* [{name}]({name})" for name in facts.licence_files)
        parts.append(f"License files of the base model:\n\n{listed}")
    if recipe.licence_note:
        parts.append(recipe.licence_note.strip())
    if facts.base_model:
        parts.append(
            f"Any questions regarding licensing should be directed to the original model repository: {_linked(facts)}."
        )
    return "\n\n".join(parts)


def _compatibility(results: Sequence[MemberResult]) -> str:
    tried: dict[tuple[str, str], list[bool]] = {}
    for result in results:
        for one in result.tried:
            tried.setdefault((one.program, one.version), []).append(one.works)
    if not tried:
        return "These files were not run before they were published."
    lines = []
    for (program, version), works in tried.items():
        how = "every file" if all(works) else f"{sum(works)} of {len(works)} files" if any(works) else "no file"
        lines.append(f"| {program} | {version} | {how} |")
    head = "What was run on these files, on the machine that made them. Other programs were not tried.\n\n"
    return (
        head
        + "| Program | Version | Loads and answers |\n| ------- | ------- | ----------------- |\n"
        + "\n".join(lines)
    )
