"""What several commands take: how a model is loaded, inputs by modality, lists of names, ``NAME=VALUE``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from open4m.errors import GenerationError
from open4m.modalities.base import Modality
from open4m.modalities.metadata import field_range
from open4m.modalities.registry import all_modalities, get_modality

if TYPE_CHECKING:
    import torch

    from open4m.generation import AnyToAny
    from open4m.generation.passes import Weights


# -- the model --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Args:
        dtype: number format of its weights; int8 is for the linear layers, what is left is bfloat16.
        compile: compile its blocks: seconds for every new shape, which pays where the same is done many times.
    """

    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    compile: bool = False

    @property
    def format(self) -> torch.dtype:
        """``dtype`` as a torch.dtype."""
        import torch

        return getattr(torch, self.dtype)

    def load(self, name: str) -> AnyToAny:
        """The model of that name, see :func:`open4m.load`."""
        import open4m

        return open4m.load(name, dtype=self.format, compile=self.compile)


# -- inputs -----------------------------------------------------------------------------------------------------------
def _option(modality: Modality[Any]) -> Any:
    """A file, a text for ``--caption``, fields for ``--metadata``; the help names the kinds of file."""
    if modality.name == "metadata":
        return Annotated[tuple[str, ...], arg(metavar="JSON|FIELD=NUMBER ...", help=modality.card.title + ".")]
    metavar = "TEXT" if modality.name == "caption" else "|".join(modality.extensions[:2]).upper()
    return Annotated[str | None, arg(metavar=metavar, help=modality.card.title + ".", help_behavior_hint="")]


Given = make_dataclass(
    "Given",
    [
        (name, _option(modality), field(default=() if name == "metadata" else None))
        for name, modality in all_modalities().items()
    ],
)
"""One option per registered modality."""

Words = tuple[str, ...]


def inputs_of(given: Any) -> dict[str, Any]:
    """Modality → what was given for it on the command line."""
    values = asdict(given)
    values["metadata"] = metadata(values["metadata"]) or None
    return {name: value for name, value in values.items() if value is not None}


def name_list(words: Words) -> list[str]:
    """Names separated by spaces or commas."""
    return [name for word in words for name in word.split(",") if name]


# -- assignments ------------------------------------------------------------------------------------------------------
def assignments(option: str, words: Iterable[str], example: str) -> dict[str, str]:
    """NAME → VALUE, as text.

    Raises:
        GenerationError: a word is no assignment, or a name is assigned twice; ``example`` shows how it is written.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise GenerationError(f"{option} {word}: expected NAME=VALUE, such as {option} {example}.")
        if name in found:
            raise GenerationError(f"{option}: {name} is given twice. Give it once.")
        found[name] = value
    return found


def numbers(option: str, words: Iterable[str], example: str) -> dict[str, float]:
    """As :func:`assignments`; the values are numbers."""
    return {name: number(option, text, example) for name, text in assignments(option, words, example).items()}


def number(option: str, text: str, example: str) -> float:
    """A number from text, or :class:`GenerationError`."""
    try:
        return float(text)
    except ValueError as error:
        raise GenerationError(f"{option}: {text!r} is no number. For example: {option} {example}.") from error


def weights(words: Sequence[str]) -> Weights | None:
    """``--guidance``: one number for everything given, or INPUT=NUMBER for several; None without any."""
    example = "caption=2 depth=-0.5"
    if len(words) == 1 and "=" not in words[0]:
        return number("--guidance", words[0], example)
    return numbers("--guidance", words, example) or None


def metadata(words: Sequence[str]) -> Any:
    """``--metadata``: FIELD=NUMBER in natural units, for any fields; or a file."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    fields = numbers("--metadata", words, "brightness=200 n_humans=2")
    for name, value in fields.items():
        low, high = field_range(name)
        if not low <= value <= high:
            raise GenerationError(f"--metadata {name}={value:g}: expected {low:g}…{high:g}.")
    return fields


def masked(words: Sequence[str], inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs, of which ``--mask`` hides parts: FILE for all that have a grid, MODALITY=FILE for one."""
    from open4m.generation.masks import Masked

    grids = [name for name in inputs if any(spec.grid for spec in get_modality(name).streams(224, 16))]
    masks: dict[str, str] = {}
    for word in words:
        names = [get_modality(word.partition("=")[0]).name] if "=" in word else grids
        for name in names:
            if name not in inputs:
                raise GenerationError(f"--mask {word}: {name} is not given. Give it, or leave out its mask.")
            if name in masks:
                raise GenerationError(f"--mask: {name} has two masks. Give one.")
            masks[name] = word.partition("=")[2] or word
    if words and not masks:
        raise GenerationError("--mask: no picture or other grid is given of which a part could be hidden.")
    return {name: Masked(value, Path(masks[name])) if name in masks else value for name, value in inputs.items()}
