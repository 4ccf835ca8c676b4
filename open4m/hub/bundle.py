"""Bundles: a trained system in one folder (docs/architecture.md, "On disk").

``config.json`` is written last: a folder without it is no bundle, so a killed run leaves none that loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from open4m.errors import CheckpointError, UnknownNameError
from open4m.files import atomic_path, write_bytes, write_json
from open4m.hub.catalogue import NON_COMMERCIAL, SAMPLE_CODE_LICENCE, published_tokenizer, resolve
from open4m.hub.published import from_published, is_published, model_config, resolution
from open4m.modalities.rgb import IMAGENET_MEAN, IMAGENET_STD
from open4m.model import FourM, ModelConfig
from open4m.streams import StreamKind
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.io import load_tokenizer, save_tokenizer
from open4m.tokenizers.text import TextTokenizer
from open4m.weights import CONFIG, WEIGHTS, read_config, read_weights, require_finite

FORMAT_VERSION = 1
TEXT, CARD = "text_tokenizer.json", "README.md"
PUBLISHED_TEXT = "text_tokenizer_4m_wordpiece_30k.json"
PREPROCESSING: dict[str, Any] = {
    "crop": "centre square",
    "resize": "bicubic",
    "rgb_mean": [round(float(v), 6) for v in IMAGENET_MEAN.flatten()],
    "rgb_std": [round(float(v), 6) for v in IMAGENET_STD.flatten()],
}
"""How pictures become pixels: the only way there is; stored, and compared when a bundle is read."""


@dataclass(frozen=True)
class BundleInfo:
    """What ``config.json`` says beside the model's shape.

    Attributes:
        name: what users call the system, such as ``scenes-tiny``.
        description: one line.
        image_size, patch_size: of its pixel stream, in pixels.
        stream_tokenizers: stream name → name of the tokenizer that turns its ids into values
            (``human_poses`` and ``sam_instance``: of the ids inside their text).
        licence, licence_url: of the weights.
        provenance: where the weights come from (data, steps, versions, scores), JSON-able.
        generation: settings that suit these weights better than the published ones, which were found for models
            a hundred times larger (:func:`open4m.generation.defaults.grid_defaults`); JSON-able.
    """

    name: str
    description: str
    image_size: int
    patch_size: int
    stream_tokenizers: dict[str, str]
    licence: str
    licence_url: str
    provenance: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, dict[str, Any]] = field(default_factory=dict)


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
        config = self.model.config
        for stream, name in self.info.stream_tokenizers.items():
            config.index(stream)
            if name not in self.tokenizers:
                raise CheckpointError(f"{self.info.name}: {stream} needs the tokenizer {name!r}, which is missing.")
        if self.text is not None:
            check_vocabulary(config, self.text, self.info.name)

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
def save_bundle(bundle: Bundle, folder: str | Path, dtype: torch.dtype = torch.bfloat16, card_notes: str = "") -> None:
    """Write a bundle, weights stored as ``dtype``; ``card_notes`` (Markdown) close its card.

    Raises:
        CheckpointError: the model is not trained, or has weights that are not finite.
    """
    folder = Path(folder)
    if not bundle.model.trained:
        raise CheckpointError(f"{bundle.info.name}: the model is not trained (fully or in part); it cannot be saved.")
    weights = {k: v.detach().to("cpu", dtype).contiguous() for k, v in bundle.model.state_dict().items()}
    require_finite(weights, bundle.info.name)
    (folder / CONFIG).unlink(missing_ok=True)
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    for name, tokenizer in bundle.tokenizers.items():
        save_tokenizer(tokenizer, folder / "tokenizers" / name, dtype)
    if bundle.text is not None:
        bundle.text.save(folder / TEXT)
    write_bytes(folder / CARD, _model_card(bundle, card_notes).encode())
    config = {"format_version": FORMAT_VERSION, **asdict(bundle.info), "preprocessing": PREPROCESSING}
    write_json(folder / CONFIG, config | {"model": bundle.model.config.to_dict()})


def _model_card(bundle: Bundle, notes: str) -> str:
    info, config = bundle.info, bundle.model.config
    parameters = sum(p.numel() for p in bundle.model.parameters()) / 1e6
    provenance = "\n".join(f"- {key}: {value}" for key, value in info.provenance.items())
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


# -- reading ------------------------------------------------------------------------------------------------------
def load_bundle(name: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Bundle:
    """Read a bundle, or a published 4M model, by anything that :func:`~open4m.hub.catalogue.resolve` understands.

    Loading is strict: no part of the model is ever left at random values.

    Raises:
        UnknownNameError: no such model.
        CheckpointError: something is missing, damaged, of another version or does not fit; the message names it.
    """
    folder = resolve(name)
    values = read_config(folder)
    if is_published(values):
        return _load_published(folder, values, dtype, device)
    info, config = _parse_config(folder, values)
    model = _build(config, read_weights(folder / WEIGHTS), device, dtype, folder)
    names = info.stream_tokenizers.values()
    tokenizers = TokenizerFolders(names, lambda name: folder / "tokenizers" / name, device, dtype)
    return Bundle(info, model, tokenizers, _read_text(folder))


def _load_published(folder: Path, values: dict[str, Any], dtype: torch.dtype, device: torch.device | str) -> Bundle:
    """A folder as on the hub: transformer only.

    Its tokenizers are looked for beside it (same folder names as on the hub) and fetched when they are needed.
    """
    config = model_config(values, str(folder / CONFIG))
    model = _build(config, from_published(read_weights(folder / WEIGHTS), config), device, dtype, folder)
    image_size, patch_size = resolution(values)
    found = {spec.name: published_tokenizer(spec.name) for spec in config.streams}
    names = {stream: name for stream, name in found.items() if name is not None}
    info = BundleInfo(
        name=folder.name,
        description="Published 4M checkpoint",
        image_size=image_size,
        patch_size=patch_size,
        stream_tokenizers=names,
        licence=NON_COMMERCIAL,
        licence_url=SAMPLE_CODE_LICENCE,
        provenance={"folder": str(folder)},
    )

    def locate(tokenizer: str) -> Path:
        beside = folder.parent / tokenizer.rpartition("/")[2]
        return beside if beside.is_dir() else resolve(tokenizer)

    return Bundle(info, model, TokenizerFolders(names.values(), locate, device, dtype), _read_text(folder))


def _build(
    config: ModelConfig, weights: dict[str, Tensor], device: torch.device | str, dtype: torch.dtype, folder: Path
) -> FourM:
    with torch.device("meta"):
        model = FourM(config)
    model.load_weights(weights, device, dtype, str(folder / WEIGHTS))
    return model.eval()


def _parse_config(folder: Path, values: dict[str, Any]) -> tuple[BundleInfo, ModelConfig]:
    source = str(folder / CONFIG)
    if values.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{source}: format_version is {values.get('format_version')!r}; this version of open4m reads "
            f"{FORMAT_VERSION}. Is it the folder of a bundle, and open4m up to date?"
        )
    known = {f.name for f in fields(BundleInfo)}
    values = {"generation": {}, **values}
    expected = known | {"format_version", "preprocessing", "model"}
    if set(values) != expected:
        wrong = [f"missing {key}" for key in expected - set(values)]
        wrong += [f"unknown {key}" for key in set(values) - expected]
        raise CheckpointError(f"{source}: {', '.join(sorted(wrong))}.")
    if values["preprocessing"] != PREPROCESSING:
        raise CheckpointError(f"{source}: preprocessing is {values['preprocessing']}, only {PREPROCESSING} is known.")
    info = BundleInfo(**{key: values[key] for key in known})
    return info, ModelConfig.from_dict(values["model"], f"{source}: model")


def _read_text(folder: Path) -> TextTokenizer | None:
    for name in (TEXT, PUBLISHED_TEXT):
        if (folder / name).is_file():
            return TextTokenizer.load(folder / name)
    return None
