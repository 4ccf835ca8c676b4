"""What can be loaded by name: bundles inside the package, and the published 4M weights (spec: model §11.4)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from open4m.errors import CheckpointError, Open4MError, UnknownNameError
from open4m.files import read_json

ASSETS = Path(__file__).parent.parent / "assets"
"""Folder of the bundles that ship with the package."""

OWNER = "EPFL-VILAB"
NON_COMMERCIAL = "non-commercial"
SAMPLE_CODE_LICENCE = "https://github.com/apple/ml-4m/blob/main/LICENSE_WEIGHTS"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["config.json", "*.safetensors", "*.json", "README.md"]


@dataclass(frozen=True)
class Entry:
    """One thing that can be loaded.

    Attributes:
        name: what to pass to ``open4m.load`` (models) or what a model refers to (tokenizers).
        kind: transformer with its tokenizers, or one tokenizer.
        licence: short word: ``non-commercial`` or the name of a permissive licence.
        licence_url: its full text.
        description: one line.
    """

    name: str
    kind: Literal["model", "tokenizer"]
    licence: str
    licence_url: str
    description: str


def _published(name: str, kind: Literal["model", "tokenizer"], description: str) -> Entry:
    return Entry(f"{OWNER}/{name}", kind, NON_COMMERCIAL, SAMPLE_CODE_LICENCE, description)


_TRUNKS = {"B": "198.8M", "L": "705.7M", "XL": "2.8B"}
_MODELS = [
    *(
        (f"4M-7_{s}_{data}", f"7 modalities, {n} trunk, {data}")
        for data in ("CC12M", "COYO700M")
        for s, n in _TRUNKS.items()
    ),
    *((f"4M-21_{s}", f"21 modalities, {n} trunk, CC12M + COYO700M + C4") for s, n in _TRUNKS.items()),
    *((f"4M-7-T2I_{s}_CC12M", f"text-to-image specialist, {n} trunk, CC12M") for s, n in _TRUNKS.items()),
    ("4M-7-SR_L_CC12M", "super-resolution of tokens 224 to 448, 705.7M trunk, CC12M"),
]

TOKENIZERS: dict[str, str] = {
    "tok_rgb": "4M_tokenizers_rgb_16k_224-448",
    "tok_depth": "4M_tokenizers_depth_8k_224-448",
    "tok_normal": "4M_tokenizers_normal_8k_224-448",
    "tok_canny_edge": "4M_tokenizers_edge_8k_224-512",
    "tok_sam_edge": "4M_tokenizers_edge_8k_224-512",
    "tok_semseg": "4M_tokenizers_semseg_4k_224-448",
    "tok_clip": "4M_tokenizers_CLIP-B16_8k_224-448",
    "tok_dinov2": "4M_tokenizers_DINOv2-B14_8k_224-448",
    "tok_dinov2_global": "4M_tokenizers_DINOv2-B14-global_8k_16_224",
    "tok_imagebind": "4M_tokenizers_ImageBind-H14_8k_224-448",
    "tok_imagebind_global": "4M_tokenizers_ImageBind-H14-global_8k_16_224",
    "sam_instance": "4M_tokenizers_sam-instance_1k_64",
    "human_poses": "4M_tokenizers_human-poses_1k_8",
}
"""Which published tokenizer reads and writes a published stream (name without resolution)."""

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in [
        *(_published(name, "model", text) for name, text in _MODELS),
        *(_published(name, "tokenizer", f"tokenizer of {', '.join(s for s, t in TOKENIZERS.items() if t == name)}")
          for name in dict.fromkeys(TOKENIZERS.values())),
    ]
}  # fmt: skip
"""Every published model and tokenizer by hub id."""


def published_tokenizer(stream: str) -> str | None:
    """Hub id of the tokenizer of a published stream such as ``tok_rgb@448``; None for those without (pixels, text)."""
    name = TOKENIZERS.get(stream.partition("@")[0])
    return None if name is None else f"{OWNER}/{name}"


def bundled() -> dict[str, Entry]:
    """The bundles that ship with the package, by name."""
    entries = {}
    for config in sorted(ASSETS.glob("*/config.json")):
        values, name = read_json(config), config.parent.name
        entries[name] = Entry(name, "model", values["licence"], values["licence_url"], values["description"])
    return entries


def list_models(pattern: str = "*") -> list[Entry]:
    """Models (not tokenizers) whose name matches a shell pattern in any case, such as ``*21*``; own ones first."""
    models = [*bundled().values(), *(entry for entry in CATALOGUE.values() if entry.kind == "model")]
    return [entry for entry in models if fnmatchcase(entry.name.lower(), pattern.lower())]


def resolve(name: str | Path, download: Callable[..., str] | None = None) -> Path:
    """Folder of a model or tokenizer.

    Args:
        name: a bundle of the package (``scenes-tiny``), a local folder, or a hub id: ``4M-21_B``,
            ``EPFL-VILAB/4M-21_B``, and with a pinned revision ``EPFL-VILAB/4M-21_B@<commit>``; in this order.
        download: how to fetch a hub id; default ``huggingface_hub.snapshot_download``.

    Raises:
        UnknownNameError: nothing of that name; the nearest ones are suggested.
        CheckpointError: it exists in the catalogue but could not be fetched.
    """
    if isinstance(name, str) and (ASSETS / name / "config.json").is_file():
        return ASSETS / name
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path):
        raise CheckpointError(f"{name}: there is no such folder. Check the path.")
    repository, _, revision = name.partition("@")
    if f"{OWNER}/{repository}" in CATALOGUE:
        repository = f"{OWNER}/{repository}"
    if repository not in CATALOGUE and (not _HUB_ID.fullmatch(repository) or repository.startswith(f"{OWNER}/")):
        raise UnknownNameError("model", name, [*bundled(), *CATALOGUE])
    return _fetch(repository, revision or None, download)


def _fetch(repository: str, revision: str | None, download: Callable[..., str] | None) -> Path:
    if download is None:
        from huggingface_hub import snapshot_download  # slow to import

        download = snapshot_download
    try:
        return Path(download(repository, revision=revision, allow_patterns=_FILES))
    except Open4MError:
        raise
    except Exception as error:  # the hub client raises many unrelated classes: network, authorisation, missing names
        raise CheckpointError(
            f"{repository}: could not be fetched ({type(error).__name__}: {error}). Check the name and the connection, "
            "or download it elsewhere and pass the local folder."
        ) from error
