"""Bundles: a trained system in one folder (docs/architecture.md, "On disk").

``config.json`` is written last: a folder without it is no bundle, so a killed run leaves none that loads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from open4m.errors import CheckpointError, GenerationError, UnknownNameError
from open4m.files import atomic_path, write_bytes, write_json
from open4m.hub.blueprint import (
    FORMAT_VERSION,
    PREPROCESSING,
    PUBLISHED_BUNDLE,
    TEXT,
    Blueprint,
    BundleInfo,
    read_blueprint,
)
from open4m.hub.catalogue import CATALOGUE, LICENCE_MEANING, NON_COMMERCIAL
from open4m.hub.places import resolve
from open4m.hub.published import from_published, published_config, to_published
from open4m.hub.sizes import model_size
from open4m.hub.text import PublishedText
from open4m.model import FourM, ModelConfig
from open4m.precision import activation_dtype
from open4m.streams import StreamKind
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.io import load_tokenizer, save_tokenizer
from open4m.tokenizers.text import TextTokenizer
from open4m.weights import CONFIG, WEIGHTS, header_strings, read_layout, read_weights, require_finite

_LOG = logging.getLogger(__name__)
CARD = "README.md"
Layout = Literal["open4m", "published"]


class TokenizerFolders(Mapping[str, Tokenizer]):
    """Tokenizers by name, each read when it is first asked for and then kept."""

    def __init__(
        self, names: Iterable[str], locate: Callable[[str], Path], device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._locate = locate
        self._device = device
        self._dtype = dtype
        self._loaded: dict[str, Tokenizer] = {}

    def __getitem__(self, name: str) -> Tokenizer:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = load_tokenizer(self._locate(name), self._device, self._dtype)
        return self._loaded[name]

    def release(self) -> None:
        """Forget what was read; it is read again when it is needed."""
        self._loaded.clear()

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass
class Bundle:
    """A model with all that is needed to talk to it.

    Attributes:
        info: names, resolution, licence.
        model: the transformer, in evaluation mode.
        tokenizers: by tokenizer name; read from disk on first use where the bundle was loaded.
        text: word pieces ↔ ids; None where the model has no text or the folder no text tokenizer.
    """

    info: BundleInfo
    model: FourM
    tokenizers: Mapping[str, Tokenizer]
    text: TextTokenizer | None = None

    def __post_init__(self) -> None:
        config = self.config
        for stream, name in self.info.stream_tokenizers.items():
            config.index(stream)
            if name not in self.tokenizers:
                raise CheckpointError(f"{self.info.name}: {stream} needs the tokenizer {name!r}, which is missing.")
        if self.text is not None:
            check_vocabulary(config, self.text, self.info.name)

    @property
    def config(self) -> ModelConfig:
        """Shape of the transformer."""
        return self.model.config

    def release(self) -> None:
        """Free the memory of tokenizers that were read from disk; each is read again when it is needed."""
        if isinstance(self.tokenizers, TokenizerFolders):
            self.tokenizers.release()

    def tokenizer(self, stream: str) -> Tokenizer:
        """The tokenizer of a stream; raises :class:`UnknownNameError` if the bundle has none for it."""
        if stream not in self.info.stream_tokenizers:
            raise UnknownNameError("tokenized stream", stream, self.info.stream_tokenizers)
        return self.tokenizers[self.info.stream_tokenizers[stream]]


def check_vocabulary(config: ModelConfig, text: TextTokenizer, source: str) -> None:
    """Raise :class:`CheckpointError` unless every sequence stream has as many ids as the text tokenizer."""
    for spec in config.streams:
        if spec.kind is StreamKind.SEQUENCE and spec.vocab_size != text.vocab_size:
            raise CheckpointError(
                f"{source}: {spec.name} has {spec.vocab_size} ids, the text tokenizer {text.vocab_size}. "
                "Use the text tokenizer that the model was trained with."
            )


# -- writing ------------------------------------------------------------------------------------------------------
def save_bundle(
    bundle: Bundle,
    folder: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    card_notes: str = "",
    layout: Layout = "open4m",
) -> None:
    """Write a bundle, weights stored as ``dtype``; ``card_notes`` (Markdown) close its card.

    With ``layout`` ``published``, weights have the published names, and ``config.json`` and the header of the weights
    hold the published configuration (spec: model §11.3). What that has no words for (vocabularies and tables of our
    own, generation settings, provenance) is in ``bundle.json``, so that :func:`load_bundle` gives the same again.
    Published tokenizers are not copied; they are found by their names.

    Raises:
        CheckpointError: the model is not trained, is held as int8, or has weights that are not finite.
    """
    folder, info, config = Path(folder), bundle.info, bundle.config
    if not bundle.model.trained:
        raise CheckpointError(f"{info.name}: the model is not trained (fully or in part); it cannot be saved.")
    if bundle.model.quantized:
        raise CheckpointError(f"{info.name}: int8 weights are not saved. Load the model as float32 or bfloat16.")
    weights: dict[str, Tensor] = bundle.model.state_dict()
    require_finite(weights, info.name)
    own = {"format_version": FORMAT_VERSION, **asdict(info), "preprocessing": PREPROCESSING, "model": config.to_dict()}
    public = published_config(config, info.image_size, info.patch_size)
    (folder / CONFIG).unlink(missing_ok=True)
    (folder / PUBLISHED_BUNDLE).unlink(missing_ok=True)
    if layout == "published":
        weights = to_published(weights, config)
        write_json(folder / PUBLISHED_BUNDLE, own)
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(_storable(weights, dtype), temporary, header_strings(public) if layout == "published" else None)
    for name, tokenizer in bundle.tokenizers.items():
        if name not in CATALOGUE:
            save_tokenizer(tokenizer, folder / "tokenizers" / name, dtype)
    if bundle.text is not None:
        bundle.text.save(folder / TEXT)
    write_bytes(folder / CARD, _model_card(bundle, card_notes).encode())
    write_json(folder / CONFIG, public if layout == "published" else own)


def _storable(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """On the CPU, as ``dtype``; what is used under several names is written once for each."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for key, value in weights.items():
        stored = value.detach().to("cpu", dtype).contiguous()
        found[key] = stored.clone() if stored.data_ptr() in places else stored
        places.add(stored.data_ptr())
    return found


def export_bundle(name: str | Path, folder: str | Path, layout: Layout = "published") -> None:
    """Write any model in the published or in our layout, every weight bit by bit as it is stored.

    Raises:
        UnknownNameError, CheckpointError: as :func:`load_bundle`.
    """
    plan = read_blueprint(resolve(name), name)
    assert plan.weights is not None  # what has been resolved is here
    stored = [value.dtype for value in read_layout(plan.weights).values() if value.is_floating_point()]
    save_bundle(load_bundle(name), folder, max(stored, key=lambda dtype: dtype.itemsize), layout=layout)
    card = plan.weights.parent / CARD
    if card.is_file():
        write_bytes(Path(folder) / CARD, card.read_bytes())


def _model_card(bundle: Bundle, notes: str) -> str:
    info, config = bundle.info, bundle.model.config
    parameters = model_size(config, published=False).parameters / 1e6
    provenance = "\n".join(f"- {line}" for line in _told(info.provenance))
    return f"""# {info.name}

{info.description}

- Licence of the weights: {info.licence} ({info.licence_url})
- {parameters:.1f} M parameters: width {config.dim}, {config.encoder_depth} + {config.decoder_depth} blocks
- Pictures: {info.image_size} px, patches of {info.patch_size} px
- Reads: {", ".join(spec.name for spec in config.inputs)}
- Predicts: {", ".join(spec.name for spec in config.targets)}
{provenance}

```python
import open4m

model = open4m.load("{info.name}")
```
{notes}"""


def _told(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Where weights come from, for people: of the weights that training began with only how long they were trained."""
    for key, value in provenance.items():
        if key == "start" and isinstance(value, Mapping):
            yield f"begun from: {value.get('name')}, {value.get('steps')} steps, {value.get('samples')} samples"
            yield from (line for line in _told(value) if line.startswith("begun from"))
        elif isinstance(value, Mapping):
            yield f"{key}: {', '.join(f'{name} {number}' for name, number in value.items())}"
        else:
            yield f"{key}: {value}"


# -- reading ------------------------------------------------------------------------------------------------------
def load_bundle(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    text_tokenizer: str | Path | None = None,
) -> Bundle:
    """Read a bundle, or a published 4M model, by anything that :func:`~open4m.hub.places.locate` understands.

    Loading is strict: no part of the model is ever left at random values. Tokenizers are read, and those of published
    models fetched, when they are first needed. The licence is logged, once for each model.

    Args:
        name: of a bundle of the package, a folder, a ``.safetensors`` file, or a hub id.
        dtype, device: of the weights. ``torch.int8`` is for a CPU only: linear layers of blocks and untied heads are
            int8, with one scale for each row, and everything else is bfloat16 (:meth:`FourM.quantize`).
        text_tokenizer: file of the published text tokenizer; by default it is looked for in the folder, and for
            published models fetched when words are needed (:func:`open4m.hub.text.published_text`).

    Raises:
        UnknownNameError: no such model.
        CheckpointError: something is missing, damaged, of another version or does not fit; the message names it.
        GenerationError: int8 weights on another device.
    """
    if dtype == torch.int8 and torch.device(device).type != "cpu":
        raise GenerationError(f"{name}: int8 weights are for a CPU, not for {device}. Load it as torch.bfloat16.")
    plan = read_blueprint(resolve(name), name)
    assert plan.weights is not None  # what has been resolved is here
    stored = None if dtype == torch.int8 else dtype  # what becomes int8 is rounded once
    weights = read_weights(plan.weights, device, stored)
    if plan.published:
        weights = from_published(weights, plan.config)
    model = _build(plan.config, weights, device, stored, str(plan.weights))
    if dtype == torch.int8:
        model.quantize()

    def locate_tokenizer(name: str) -> Path:
        where = plan.tokenizer(name)
        return where if isinstance(where, Path) else resolve(where.name)

    names = plan.info.stream_tokenizers.values()
    tokenizers = TokenizerFolders(names, locate_tokenizer, device, activation_dtype(dtype))
    bundle = Bundle(plan.info, model, tokenizers, _read_text(plan, text_tokenizer))
    _log_licence(plan.info.name, plan.info.licence, plan.info.licence_url)
    return bundle


def _build(
    config: ModelConfig, weights: dict[str, Tensor], device: torch.device | str, dtype: torch.dtype | None, source: str
) -> FourM:
    with torch.device("meta"):
        model = FourM(config)
    model.load_weights(weights, device, dtype, source, assign=True)
    return model.eval()


@cache  # once for each model in a process
def _log_licence(name: str, licence: str, url: str) -> None:
    level = logging.WARNING if licence == NON_COMMERCIAL else logging.INFO
    _LOG.log(level, "%s: %s weights. %s %s", name, licence, LICENCE_MEANING.get(licence, ""), url)


def _read_text(plan: Blueprint, given: str | Path | None) -> TextTokenizer | None:
    """The text tokenizer in the folder; without one, the published one for models that have its vocabulary."""
    path = plan.text()
    if given or plan.needs_published_text():
        return PublishedText(given)
    return None if path is None else TextTokenizer.load(path)
