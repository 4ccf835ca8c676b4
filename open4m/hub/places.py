"""From a name to files: in the package, on this machine, or on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from open4m.errors import CheckpointError, Open4MError, UnknownNameError
from open4m.hub import catalogue
from open4m.hub.catalogue import CATALOGUE, OWNER, bundled
from open4m.weights import WEIGHTS

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_FILES = ("config.json", "*.safetensors", "*.json", "README.md")


@dataclass(frozen=True)
class Repository:
    """A place on the hub: ``owner/name`` and, where it is pinned, a commit, tag or branch."""

    name: str
    revision: str | None = None


def locate(name: str | Path) -> Path | Repository:
    """Where a model or tokenizer is; nothing is fetched.

    Args:
        name: a bundle of the package (``scenes-tiny``), a local folder or ``.safetensors`` file, or a hub id:
            ``4M-21_B``, ``EPFL-VILAB/4M-21_B``, pinned ``EPFL-VILAB/4M-21_B@<commit>``; in this order.

    Raises:
        UnknownNameError: nothing of that name; the nearest ones are suggested.
        CheckpointError: a path where nothing is.
    """
    if isinstance(name, str) and name in bundled():
        return catalogue.ASSETS / name
    path = Path(name)
    if path.is_dir() or (path.suffix == ".safetensors" and path.is_file()):
        return path
    if isinstance(name, Path) or path.suffix == ".safetensors":
        raise CheckpointError(f"{name}: there is no such folder, nor such a .safetensors file. Check the path.")
    repository, _, revision = name.partition("@")
    if f"{OWNER}/{repository}" in CATALOGUE:
        repository = f"{OWNER}/{repository}"
    if repository not in CATALOGUE and (not _HUB_ID.fullmatch(repository) or repository.startswith(f"{OWNER}/")):
        raise UnknownNameError("model", name, [*bundled(), *CATALOGUE])
    return Repository(repository, revision or None)


def resolve(name: str | Path, download: Callable[..., str] | None = None, files: Sequence[str] = _FILES) -> Path:
    """Folder (or single file) of a model or tokenizer; fetched from the hub where it is not here.

    Args:
        name: see :func:`locate`.
        download: how to fetch a hub id; default ``huggingface_hub.snapshot_download``.
        files: patterns of what to fetch.

    Raises:
        UnknownNameError, CheckpointError: see :func:`locate`; or it could not be fetched.
    """
    where = locate(name)
    return where if isinstance(where, Path) else _fetch(where, download, files)


def fetched(repository: Repository) -> Path | None:
    """The folder of a repository that was fetched before, in the cache of ``huggingface_hub``; else None."""
    from huggingface_hub import try_to_load_from_cache  # slow to import

    found = try_to_load_from_cache(repository.name, WEIGHTS, revision=repository.revision)
    return Path(found).parent if isinstance(found, str) else None


def _fetch(repository: Repository, download: Callable[..., str] | None, files: Sequence[str]) -> Path:
    if download is None:
        from huggingface_hub import snapshot_download  # slow to import

        download = snapshot_download
    try:
        return Path(download(repository.name, revision=repository.revision, allow_patterns=list(files)))
    except Open4MError:
        raise
    except Exception as error:  # the hub client raises many unrelated classes: network, authorisation, missing names
        raise CheckpointError(
            f"{repository.name}: could not be fetched ({type(error).__name__}: {error}). Check the name and the "
            "connection, or download it elsewhere and pass the local folder."
        ) from error
