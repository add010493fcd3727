"""A recipe: the YAML file that says what is published, from which source, in which formats and under which names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from halfbyte.checkpoint.fields import Fields
from halfbyte.convert.registry import FORMATS, format_of
from halfbyte.errors import ConfigError, PublishError, QuantizeError

if TYPE_CHECKING:
    from pathlib import Path

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_BRANCH = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence by its identifier on the Hub; `other` needs a name, and a link or a file that says what it is."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One set of weights: a format on a branch."""

    format: str  # a SPEC of `halfbyte convert`
    branch: str = "main"
    calib: str = "builtin"
    calib_link: str | None = None
    samples: int = 64
    seq_len: int = 512
    imatrix: str | None = None

    @property
    def kind(self) -> str:
        """ "gguf", "awq", ..."""
        return self.format.partition(":")[0].lower()


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on the Hub; its members are all of one kind."""

    repo: str
    members: tuple[Member, ...]
    about: str | None = None  # its line under "Repositories available"

    @property
    def kind(self) -> str:
        """The kind of its members."""
        return self.members[0].kind

    @property
    def branches(self) -> list[str]:
        """Its branches, in order."""
        return list(dict.fromkeys(member.branch for member in self.members))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The text that perplexity and KL are measured on."""

    text: str
    context: int = 2048
    windows: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of it. `licences` has the model's own first; more than one is dual licensing."""

    source: str
    repositories: tuple[Repository, ...]
    name: str | None = None
    creator: str | None = None
    creator_link: str | None = None
    base_model: str | None = None
    quantized_by: str = "halfbyte"
    licences: tuple[Licence, ...] = ()
    licence_note: str | None = None
    datasets: tuple[str, ...] = ()
    inference: bool | None = None
    prompt_template: str | None = None
    prompt_name: str | None = None
    evaluation: Evaluation | None = None
    header: str | None = None  # Markdown above the title
    sections: dict[str, str] = field(default_factory=dict)  # more of the card: heading -> Markdown


_KNOWN = {
    "": {
        "source", "repositories", "name", "creator", "creator_link", "base_model", "quantized_by", "license",
        "license_name", "license_link", "also_licensed", "license_note", "datasets", "inference", "prompt_template",
        "prompt_name", "evaluation", "header", "sections",
    },
    "repositories": {"repo", "files", "about"},
    "files": {"format", "branch", "calib", "calib_link", "samples", "seq_len", "imatrix"},
    "also_licensed": {"license", "name", "link"},
    "evaluation": {"text", "context", "windows"},
}  # fmt: skip


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises PublishError naming the file, and the field or line at fault."""
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise PublishError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PublishError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise PublishError(f"{path}: a recipe is a mapping with source: and repositories:")
    try:
        return parse_recipe(value, str(path))
    except ConfigError as error:
        raise PublishError(str(error)) from None


def parse_recipe(value: dict[str, Any], where: str) -> Recipe:
    """A recipe from YAML's values. Raises ConfigError naming the field."""
    fields = _checked(value, where, "", "")
    repositories = tuple(_repository(item, where, i) for i, item in enumerate(_list(fields, "repositories")))
    if not repositories:
        raise fields.fail("repositories", "lists none: there is nothing to publish")
    names = [repository.repo for repository in repositories]
    if len(set(names)) != len(names):
        raise fields.fail("repositories", "names a repository twice")
    evaluation = fields.object("evaluation")
    sections = fields.object("sections")
    return Recipe(
        source=fields.string("source"),
        repositories=repositories,
        name=_optional(fields, "name"),
        creator=_optional(fields, "creator"),
        creator_link=_optional(fields, "creator_link"),
        base_model=_optional(fields, "base_model"),
        quantized_by=fields.string("quantized_by", "halfbyte"),
        licences=_licences(fields, where),
        licence_note=_optional(fields, "license_note"),
        datasets=tuple(fields.strings("datasets") or ()),
        inference=fields.boolean("inference", False) if fields.has("inference") else None,
        prompt_template=_optional(fields, "prompt_template"),
        prompt_name=_optional(fields, "prompt_name"),
        evaluation=None if evaluation is None else _evaluation(dict(evaluation.values), where),
        header=_optional(fields, "header"),
        sections={} if sections is None else {str(name): sections.string(str(name)) for name in sections.values},
    )


def _checked(value: Any, where: str, prefix: str, kind: str) -> Fields:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {prefix.rstrip('.')} must be a mapping")
    fields = Fields(value, where, prefix)
    for name in value:
        if name not in _KNOWN[kind]:
            raise fields.fail(str(name), f"is not known; there are {', '.join(sorted(_KNOWN[kind]))}")
    return fields


def _list(fields: Fields, name: str) -> list[Any]:
    value = fields.values.get(name)
    if not isinstance(value, list):
        raise fields.fail(name, "must be a list")
    return value


def _optional(fields: Fields, name: str) -> str | None:
    return fields.string(name) if fields.has(name) else None


def _licences(fields: Fields, where: str) -> tuple[Licence, ...]:
    own = []
    if fields.has("license"):
        own = [Licence(fields.string("license"), _optional(fields, "license_name"), _optional(fields, "license_link"))]
    also = _list(fields, "also_licensed") if fields.has("also_licensed") else []
    for i, item in enumerate(also):
        other = _checked(item, where, f"also_licensed[{i}].", "also_licensed")
        own.append(Licence(other.string("license"), _optional(other, "name"), _optional(other, "link")))
    return tuple(own)


def _evaluation(value: dict[str, Any], where: str) -> Evaluation:
    fields = _checked(value, where, "evaluation.", "evaluation")
    windows = fields.integer("windows") if fields.has("windows") else None
    return Evaluation(fields.string("text"), fields.integer("context", 2048, least=2), windows)


def _repository(value: Any, where: str, i: int) -> Repository:
    fields = _checked(value, where, f"repositories[{i}].", "repositories")
    repo = fields.string("repo")
    if not _REPO_ID.fullmatch(repo):
        raise fields.fail("repo", f"is {repo!r}, not a Hub id such as org/name")
    members = tuple(
        _member(item, where, f"repositories[{i}].files[{j}].") for j, item in enumerate(_list(fields, "files"))
    )
    if not members:
        raise fields.fail("files", "lists none")
    if len({member.kind for member in members}) > 1:
        raise fields.fail("files", "mixes formats; give each kind a repository of its own")
    places = [(member.branch, member.format if member.kind == "gguf" else "") for member in members]
    if len(set(places)) != len(places):
        raise fields.fail("files", "has two on one branch; give each a branch of its own")
    return Repository(repo, members, _optional(fields, "about"))


def _member(value: Any, where: str, prefix: str) -> Member:
    fields = _checked(value, where, prefix, "files")
    form = fields.string("format")
    if form.partition(":")[0].lower() not in FORMATS:
        known = ", ".join(known.example for known in FORMATS.values())
        raise fields.fail("format", f"is {form!r}; formats look like {known}")
    try:
        format_of(form)
    except QuantizeError as error:
        raise fields.fail("format", f"is {form!r}: {error}") from None
    branch = fields.string("branch", "main")
    if not _BRANCH.fullmatch(branch):
        raise fields.fail("branch", f"is {branch!r}, not a name of letters, digits, '.', '_' and '-'")
    return Member(
        format=form,
        branch=branch,
        calib=fields.string("calib", "builtin"),
        calib_link=_optional(fields, "calib_link"),
        samples=fields.integer("samples", 64),
        seq_len=fields.integer("seq_len", 512),
        imatrix=_optional(fields, "imatrix"),
    )
