"""Uploads finished folders to the Hub by its own library, which resumes what was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

from halfbyte.errors import PublishError
from halfbyte.publish.build import folder_of, sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from halfbyte.publish.recipe import Recipe

# What git, the Hub's client and interrupted runs leave in a folder
IGNORED = [".git", ".git/*", ".cache", ".cache/*", ".*.part", ".*.part/*", "*.incomplete"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that would go: where to, its size in bytes and its hash."""

    repo: str
    branch: str
    name: str
    size: int
    sha256: str


def plan_upload(recipe: Recipe, out: Path) -> list[PlannedFile]:
    """Exactly what `upload` sends. Raises PublishError for a folder that is not built yet."""
    planned = []
    for repo, branch, folder in _places(recipe, out):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            if not name.startswith(".") and not name.endswith(".incomplete"):
                planned.append(PlannedFile(repo, branch, name, path.stat().st_size, sha256(path)))
    return planned


def upload(
    recipe: Recipe,
    out: Path,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    private: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Send every folder of the recipe; returns the addresses. Branches that are not there are made.

    Running it again sends only what is missing. Raises PublishError, naming repository and cause, if the Hub refuses.
    """
    api = HfApi(endpoint=endpoint, token=token)
    addresses = []
    for repo, branch, folder in _places(recipe, out):
        tell(f"{repo}@{branch}: uploading {folder}")
        try:
            _validate(api, folder)
            api.create_repo(repo, private=private, exist_ok=True)
            if branch != "main":
                api.create_branch(repo, branch=branch, exist_ok=True)
            _send(api, repo, branch, folder)
        except PublishError:
            raise
        except Exception as error:  # the Hub's client raises many kinds; all mean that not everything has arrived
            raise PublishError(
                f"{repo}@{branch}: the upload failed: {error}; run again to send what is missing"
            ) from error
        addresses.append(f"{api.endpoint}/{repo}/tree/{branch}")
    return addresses


def _send(api: HfApi, repo: str, branch: str, folder: Path) -> None:
    if hasattr(api, "upload_large_folder"):  # before huggingface_hub 2, the one that resumes
        api.upload_large_folder(repo, folder, repo_type="model", revision=branch, ignore_patterns=IGNORED)
        return
    message = "Upload by halfbyte publish"
    api.upload_folder(
        repo_id=repo, folder_path=folder, revision=branch, commit_message=message, ignore_patterns=IGNORED
    )


def _validate(api: HfApi, folder: Path) -> None:
    """Ask the Hub whether it takes the card's front matter, before gigabytes are sent."""
    content = str(ModelCard.load(folder / "README.md"))
    response = get_session().post(f"{api.endpoint}/api/validate-yaml", json={"repoType": "model", "content": content})
    if response.status_code == 400:
        raise PublishError(f"{folder / 'README.md'}: the Hub refuses its front matter: {response.text}")
    hf_raise_for_status(response)


def _places(recipe: Recipe, out: Path) -> list[tuple[str, str, Path]]:
    places = [(r.repo, branch, folder_of(out, r, branch)) for r in recipe.repositories for branch in r.branches]
    for repo, branch, folder in places:
        if not (folder / "README.md").is_file():
            raise PublishError(f"{folder} is not there or not complete ({repo}@{branch}); build it first")
    return places
