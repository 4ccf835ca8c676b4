"""A stream is how the transformer sees a modality: the only description of data that the model knows.

A modality may own several streams: RGB is seen as pixels (``rgb@224``) and as tokens (``tok_rgb@224``).
Names follow the published grammar ``[tok_]<base>[@<resolution>]`` (4M-21, apple/ml-4m).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

_NAME = re.compile(r"[A-Za-z_][\w-]*(@\w+)?", re.ASCII)
_MOST_IDS, _MOST_TOKENS = 2**20, 2**14
"""Above every known stream, and low enough for tables of that many rows."""


class StreamKind(StrEnum):
    """What the content of one position of a stream is."""

    PIXELS = "pixels"  # a patch of an image, projected linearly; input only
    TOKENS = "tokens"  # a codebook index on a grid or in an unordered set, predicted in parallel
    SEQUENCE = "sequence"  # a word-piece id, predicted one after the other
    EMBEDDING = "embedding"  # a given vector (T5 states), projected linearly; input only


class Position(StrEnum):
    """How the position inside a stream is told to the transformer."""

    SINCOS_1D = "sincos_1d"
    SINCOS_2D = "sincos_2d"
    LEARNED = "learned"


@dataclass(frozen=True)
class StreamSpec:
    """One stream of a model.

    Attributes:
        name: unique name in the published grammar, such as ``tok_depth@224``.
        modality: name of the modality it belongs to, such as ``depth``.
        kind: what a position holds.
        max_tokens: number of positions (grid size, or the longest sequence).
        vocab_size: number of token ids; 0 for pixels and embeddings.
        grid: (rows, columns) of image-like streams, else None.
        patch_size: side of a patch in pixels, for pixel streams; else 0.
        channels: image channels (pixels) or width of the given vectors (embedding); else 0.
        position: kind of the position embedding.
        table: name of the token table; streams that name the same table share its rows.
        max_target_position: target positions from here on are embedded as position 0
            (a quirk of the published ``human_poses``; None = no limit).
        is_input: the encoder has an embedding for it.
        is_target: the decoder has an embedding and a head for it.
    """

    name: str
    modality: str
    kind: StreamKind
    max_tokens: int
    vocab_size: int = 0
    grid: tuple[int, int] | None = None
    patch_size: int = 0
    channels: int = 0
    position: Position = Position.SINCOS_1D
    table: str = ""
    max_target_position: int | None = None
    is_input: bool = True
    is_target: bool = True

    def __post_init__(self) -> None:
        self._check_types()
        object.__setattr__(self, "kind", StreamKind(self.kind))
        object.__setattr__(self, "position", Position(self.position))
        if self.grid is not None:
            object.__setattr__(self, "grid", (int(self.grid[0]), int(self.grid[1])))
            if self.grid[0] * self.grid[1] != self.max_tokens:
                raise ValueError(f"stream {self.name}: a grid of {self.grid} does not hold {self.max_tokens} tokens")
        if not self.table:
            object.__setattr__(self, "table", self.name)
        has_vocabulary = self.kind in (StreamKind.TOKENS, StreamKind.SEQUENCE)
        if has_vocabulary != (self.vocab_size > 0):
            raise ValueError(f"stream {self.name}: vocab_size {self.vocab_size} does not fit kind {self.kind}")
        if self.is_target and not has_vocabulary:
            raise ValueError(f"stream {self.name}: only tokens and sequences can be targets")

    def _check_types(self) -> None:
        """A description may come from any file."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"stream {self.name!s:.60}: a name has letters, digits, '_' and '-', then perhaps @size")
        if not isinstance(self.modality, str) or not isinstance(self.table, str) or "." in self.table:
            raise ValueError(f"stream {self.name}: modality and table must be names")
        limit = 0 if self.max_target_position is None else self.max_target_position
        numbers = {"max_target_position": limit} | {
            key: getattr(self, key) for key in ("max_tokens", "vocab_size", "patch_size", "channels")
        }
        for key, number in numbers.items():
            most = _MOST_TOKENS if key == "max_tokens" else _MOST_IDS
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
                raise ValueError(f"stream {self.name}: {key} must be in 0…{most}, not {number!s:.40}")
        if not isinstance(self.is_input, bool) or not isinstance(self.is_target, bool):
            raise ValueError(f"stream {self.name}: is_input and is_target must be true or false")
        if self.grid is not None and (len(self.grid) != 2 or not all(isinstance(n, int) and n > 0 for n in self.grid)):
            raise ValueError(f"stream {self.name}: grid must be (rows, columns), not {self.grid!s:.40}")

    @property
    def published_id(self) -> int:
        """Numeric label of the stream in the published models: ``sha256(name) mod 2**15``."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 2**15

    @property
    def resolution(self) -> int | None:
        """Side in pixels of the pictures that the name speaks of (``tok_depth@448``: 448); None without one."""
        digits = self.name.partition("@")[2]
        return int(digits) if digits.isdigit() else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as stored in a model's ``config.json``; JSON leaves it unchanged."""
        grid = None if self.grid is None else list(self.grid)
        return asdict(self) | {"kind": self.kind.value, "position": self.position.value, "grid": grid}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StreamSpec:
        """Inverse of :meth:`to_dict`; unknown keys raise ``TypeError``."""
        return cls(**values)
