"""A model on the Hugging Face Hub: `org/name[@revision]`, through the Hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from halfbyte.checkpoint.folder import LAYOUTS, NOTE_SUFFIXES, WEIGHT_SUFFIXES, FolderSource
from halfbyte.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable


def open_hub(spec: str) -> FolderSource:
    """Download what is needed of a repository, or take it from the cache (HF_HOME, HF_HUB_OFFLINE are honoured).

    Raises SourceError that says what to do.
    """
    repo_id, _, revision = spec.partition("@")
    return FolderSource(_snapshot(repo_id, revision or None), spec)


def _snapshot(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import constants, errors  # noqa: PLC0415  the Hub's library takes a while to import

    name = repo_id if revision is None else f"{repo_id}@{revision}"
    try:
        return Path(_download(repo_id, revision))
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{name} is gated: accept its terms on {constants.ENDPOINT}/{repo_id}, then log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{repo_id} has no revision {revision!r}; see its branches and tags on the Hub") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{name}: there is no such folder here, and no such public repository on the Hub; check the spelling, or "
            "log in with `hf auth login` if it is private"
        ) from error
    except errors.HFValidationError as error:
        raise SourceError(f"{name} is not a valid Hub id: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise SourceError(_not_cached(name, constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE)) from error
    except Exception as error:  # the network below raises errors of several libraries
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise SourceError(f"{name} could not be fetched from the Hub: {reason}; try again") from error


def _not_cached(name: str, offline: bool, cache: str) -> str:
    why = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
    cure = "unset it" if offline else "check the network"
    return (
        f"{name}: there is no such folder here, it is not in the Hub cache {cache}, and {why}; {cure}, "
        "give a folder or a .gguf file, or set HF_HOME to where it is cached"
    )


def _download(repo_id: str, revision: str | None) -> str:
    """The snapshot's folder. Online, the repository's list of files decides what is downloaded."""
    import huggingface_hub as hub  # noqa: PLC0415
    from huggingface_hub import constants, errors  # noqa: PLC0415

    if constants.HF_HUB_OFFLINE:
        return _cached(repo_id, revision)
    try:
        info = hub.HfApi().model_info(repo_id, revision=revision)
    except (errors.HfHubHTTPError, errors.HFValidationError):
        raise
    except Exception:  # no network; what is cached will do
        return _cached(repo_id, revision)
    wanted = needed_files(sibling.rfilename for sibling in info.siblings or [])
    return hub.snapshot_download(repo_id, revision=revision, allow_patterns=[_literal(name) for name in wanted])


def _cached(repo_id: str, revision: str | None) -> str:
    """The folder of the cached snapshot; whether its weights are whole is for the folder source to say.

    snapshot_download would refuse a snapshot without the files that were not needed.
    """
    import huggingface_hub as hub  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    config = hub.try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        raise errors.LocalEntryNotFoundError(f"{repo_id} is not cached")
    return str(Path(config).parent)


def needed_files(names: Iterable[str]) -> list[str]:
    """The files of a repository that a folder source reads: the preferred weights, small files, licences."""
    names = sorted(names)
    return [name for name in names if _is_note(name)] + _weights([name for name in names if "/" not in name])


def _is_note(name: str) -> bool:
    suffix = PurePosixPath(name).suffix
    if suffix in WEIGHT_SUFFIXES or name.endswith(".index.json"):
        return False
    if "/" in name:
        return suffix in NOTE_SUFFIXES
    return suffix in NOTE_SUFFIXES | {".json", ".model", ".tiktoken"}


def _weights(names: list[str]) -> list[str]:
    for single, index, pattern in LAYOUTS:
        if single in names:
            return [single]
        shards = [name for name in names if pattern.fullmatch(name)]
        if shards:
            return shards + ([index] if index in names else [])
    safetensors = [name for name in names if name.endswith(".safetensors")]
    return safetensors if len(safetensors) == 1 else []


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return re.sub(r"([*?\[])", r"[\1]", name)
