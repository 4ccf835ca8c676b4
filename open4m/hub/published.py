"""The published checkpoint format of 4M: configuration and keys, both ways (spec: model §11).

Nothing else in open4m knows these names. Differences to our own keys:

- a modality embedding (1, 1, D) is stored for the encoder, the decoder or both; ours has one (D,);
- vocabulary tables and heads live inside the embeddings of their stream, one each; our models may share them;
- constant position tables and the zero biases of bias-free norms are stored; ours are not.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from open4m.errors import CheckpointError, CheckpointWarning, UnknownNameError
from open4m.modalities.registry import all_modalities
from open4m.model.config import ModelConfig
from open4m.model.embeddings import StreamEmbedding
from open4m.streams import Position, StreamSpec

_EMBEDDING_KEY = re.compile(r"(encoder|decoder)_embeddings\.([^.]+)\.(.+)")
_NORM = re.compile(r".*norm\d?\.(weight|bias)")
_TABLE_TOLERANCE = 5e-3  # position tables may be stored in half precision

_FIELDS: dict[str, Any] = {
    "dim": 768,
    "encoder_depth": 12,
    "decoder_depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "gated_mlp": False,
    "qkv_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "norm_bias": True,
    "qk_norm": False,
}
"""Entries that mean the same in both configurations, with the value where a published file is silent."""

_UNSUPPORTED: dict[str, Any] = {
    "decoder_causal_mask": False,
    "decoder_sep_mask": True,
    "num_register_tokens": 0,
}
"""Options of the published constructor that no released model uses, with the only value accepted here."""

_IGNORED = {
    "domains_in",
    "domains_out",
    "image_size",
    "patch_size",
    "act_layer",
    "drop_path_rate_encoder",
    "drop_path_rate_decoder",
    "shared_drop_path",
    "use_act_checkpoint",
    "share_modality_embeddings",  # where the sides' embeddings are not the same, from_published says so
}
"""Read elsewhere, or of no effect on the function of a trained model."""


_LARGEST_IMAGE, _MOST_STREAMS = 2**13, 256
"""Far above every known model; a configuration may come from any file."""


# -- configuration ------------------------------------------------------------------------------------------------
def model_config(values: Mapping[str, Any], source: str) -> ModelConfig:
    """Published configuration → ours (heads untied, as the published files store them).

    Keys that the published constructor does not have are reported by a warning, not refused: it would not have accepted
    them either, so they had no part in training; and whatever has weights is found by the strict comparison of keys.

    Raises:
        CheckpointError: unknown streams, impossible values, or an option that no released model uses.
    """
    unknown = sorted(set(values) - set(_FIELDS) - set(_UNSUPPORTED) - _IGNORED)
    if unknown:
        names = ", ".join(f"{key:.60}" for key in unknown)
        warnings.warn(f"{source}: unknown keys are ignored: {names}.", CheckpointWarning, stacklevel=2)
    for key, accepted in _UNSUPPORTED.items():
        if values.get(key, accepted) != accepted:
            raise CheckpointError(f"{source}: {key} = {values[key]!r} is not supported, only {accepted!r}.")
    if not is_published(values):
        raise CheckpointError(f"{source}: domains_in and domains_out must name the streams of the model.")
    image_size, patch_size = resolution(values, source)
    shape: dict[str, Any] = {key: values.get(key, default) for key, default in _FIELDS.items()}
    try:
        streams = published_streams(values["domains_in"], values["domains_out"], image_size, patch_size, source)
        act: Any = str(values.get("act_layer", "GELU")).lower()
        return ModelConfig(streams=streams, act=act, tied_output=False, **shape)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}.") from error


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` describes a transformer in the published way."""
    lists = [values.get("domains_in"), values.get("domains_out")]
    return all(isinstance(names, list | tuple) and all(isinstance(n, str) for n in names) for names in lists)


def resolution(values: Mapping[str, Any], source: str) -> tuple[int, int]:
    """(image_size, patch_size) of a published configuration, in pixels."""
    image_size, patch_size = values.get("image_size") or 224, values.get("patch_size") or 16
    for key, value in (("image_size", image_size), ("patch_size", patch_size)):
        if not isinstance(value, int) or not 1 <= value <= _LARGEST_IMAGE:
            raise CheckpointError(f"{source}: {key} must be in 1…{_LARGEST_IMAGE} pixels, not {value!s:.40}.")
    return image_size, patch_size


def published_streams(
    domains_in: Sequence[str], domains_out: Sequence[str], image_size: int, patch_size: int, source: str
) -> tuple[StreamSpec, ...]:
    """Streams by their published names, in the order of ``domains_in``, then those that are only in ``domains_out``.

    A name such as ``tok_rgb@448`` brings its own resolution; ``image_size`` serves names without one.
    """
    names = list(dict.fromkeys([*domains_in, *domains_out]))
    if len(names) > _MOST_STREAMS:
        raise CheckpointError(f"{source}: {len(names)} streams; a model has at most {_MOST_STREAMS}.")
    sizes = {image_size} | {int(name.partition("@")[2]) for name in names if name.partition("@")[2].isdigit()}
    known = {
        spec.name: spec
        for size in sorted(sizes)
        for modality in all_modalities().values()
        for spec in modality.streams(size, patch_size)
    }
    for name in names:
        if name not in known:
            raise CheckpointError(f"{source}: {UnknownNameError('stream', name, known)}")
    return tuple(replace(known[n], is_input=n in domains_in, is_target=n in domains_out) for n in names)


def published_config(config: ModelConfig, image_size: int, patch_size: int) -> dict[str, Any]:
    """Our configuration → published; inverse of :func:`model_config`."""
    return {
        "domains_in": [spec.name for spec in config.inputs],
        "domains_out": [spec.name for spec in config.targets],
        "image_size": image_size,
        "patch_size": patch_size,
        "act_layer": {"silu": "SiLU", "gelu": "GELU"}[config.act],
        **{key: getattr(config, key) for key in _FIELDS},
    }


# -- weights ------------------------------------------------------------------------------------------------------
def from_published(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Published state dict → ours, bit by bit.

    Constants are checked and dropped. Keys that neither format knows are kept, for the strict loader to name.

    Raises:
        CheckpointError: a constant differs from what the configuration implies, or the encoder's and the decoder's
            copy of a modality embedding differ.
    """
    ours: dict[str, Tensor] = {}
    for key, value in weights.items():
        target = _native_key(key, value, config)
        if target is None:
            continue
        if target.startswith("modality_embeddings."):
            value = value.flatten()
        elif target.endswith(".pos_emb"):
            value = value.flatten(0, 1)
        if target in ours and not torch.equal(ours[target], value):
            raise CheckpointError(f"{key} differs from its copy in the file; the model has one {target} for both.")
        ours[target] = value
    return ours


def _native_key(key: str, value: Tensor, config: ModelConfig) -> str | None:
    """Our name of a published key; None for constants, which are checked."""
    if not config.norm_bias and _NORM.fullmatch(key) and key.endswith(".bias"):
        if bool(value.any()):
            raise CheckpointError(f"{key} is not zero, but the configuration says that norms have no bias.")
        return None
    match = _EMBEDDING_KEY.fullmatch(key)
    if match is None or match[2] not in config.names:
        return key
    side, stream, rest = match.groups()
    spec = config.stream(stream)
    if rest == "mod_emb":
        return f"modality_embeddings.{stream}"
    if rest == "token_emb.weight":
        return _table_key(side, spec, config)
    if rest == "to_logits.weight":
        return _head_key(spec, config)
    if rest == "pos_emb" and spec.position is not Position.LEARNED:
        _check_table(key, value, spec, config.dim)
        return None
    return key


def _table_key(side: str, spec: StreamSpec, config: ModelConfig) -> str:
    """Our name of the table in which ``side`` looks the ids of a stream up."""
    shared = config.tied_input and any(target.table == spec.table for target in config.targets)
    return f"{'decoder' if shared else side}_tables.{spec.table}.weight"


def _head_key(spec: StreamSpec, config: ModelConfig) -> str:
    """Our name of the matrix that gives the logits of a stream."""
    return f"decoder_tables.{spec.table}.weight" if config.tied_output else f"heads.{spec.name}.weight"


def _check_table(key: str, found: Tensor, spec: StreamSpec, dim: int) -> None:
    with torch.device("meta"):
        expected = (1, *_position_table(spec, dim).shape)
    # shapes first: what the configuration announces may be larger than memory, what the file holds is not
    if found.shape != expected or not torch.allclose(
        found[0].float(), _position_table(spec, dim), atol=_TABLE_TOLERANCE
    ):
        raise CheckpointError(f"{key} {tuple(found.shape)} is not the sine-cosine table of {expected}.")


def _position_table(spec: StreamSpec, dim: int) -> Tensor:
    return StreamEmbedding(spec, dim).position_table()


def to_published(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict → published; inverse of :func:`from_published`.

    Constants are written, and everything that is shared (modality embeddings, tied or shared tables) once per use.
    """
    published: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.endswith(".pos_emb"):
            value = value[None]
        elif key.startswith(("modality_embeddings.", "encoder_tables.", "decoder_tables.", "heads.")):
            continue
        published[key] = value
        if not config.norm_bias and _NORM.fullmatch(key):
            published[key.removesuffix("weight") + "bias"] = torch.zeros_like(value)
    for spec in config.streams:
        published.update(_stream_weights(spec, weights, config))
    return published


def _stream_weights(
    spec: StreamSpec, weights: Mapping[str, Tensor], config: ModelConfig
) -> Iterator[tuple[str, Tensor]]:
    """The published entries of one stream that are named or shaped differently from ours."""
    for side in [side for side, used in (("encoder", spec.is_input), ("decoder", spec.is_target)) if used]:
        prefix = f"{side}_embeddings.{spec.name}"
        modality = weights[f"modality_embeddings.{spec.name}"]
        yield f"{prefix}.mod_emb", modality.view(1, 1, -1)
        if spec.position is not Position.LEARNED:
            yield f"{prefix}.pos_emb", _position_table(spec, config.dim)[None].to(modality.device)
        if spec.vocab_size:
            yield f"{prefix}.token_emb.weight", weights[_table_key(side, spec, config)]
        if side == "decoder":
            yield f"{prefix}.to_logits.weight", weights[_head_key(spec, config)]
