"""Codes of what text cannot spell: body poses of people and outlines of instances (spec: modalities §4.3, §4.5).

The grammars of ``human_poses`` and ``sam_instance`` carry ids of two small tokenizers. These functions fill the ids in
before a value becomes words, and the arrays after words became a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from open4m.modalities.human_poses import Person, nearest_rotation
from open4m.modalities.sam_instance import Instance
from open4m.tokenizers.base import Tokenizer

JOINTS = 23
MASK_SIDE = 64


def pose_vectors(people: Sequence[Person]) -> Tensor:
    """Input of the pose tokenizer: (n, 207, 1, 1) float32, 23 rotation matrices row by row."""
    rows = [np.asarray(p.body_pose, dtype=np.float32).reshape(JOINTS * 9) for p in people]
    return torch.from_numpy(np.stack(rows))[:, :, None, None] if rows else torch.zeros(0, JOINTS * 9, 1, 1)


def mask_images(instances: Sequence[Instance]) -> Tensor:
    """Input of the mask tokenizer: (n, 1, 64, 64) float32 in [0, 1]; outlines without a mask are filled."""
    rows = [i.box_mask()[None].astype(np.float32) for i in instances]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, 1, MASK_SIDE, MASK_SIDE)


def encode_people(people: Sequence[Person], tokenizer: Tokenizer) -> list[Person]:
    """The same people with ``pose_tokens``; those that have them already keep them."""
    missing = [p for p in people if p.pose_tokens is None]
    ids = iter(_tokenize(pose_vectors(missing), tokenizer))
    return [p if p.pose_tokens is not None else replace(p, pose_tokens=next(ids)) for p in people]


def decode_people(people: Sequence[Person], tokenizer: Tokenizer) -> list[Person]:
    """The same people with ``body_pose`` (23, 3, 3) from their ``pose_tokens``; without tokens they stay as they are.

    The tokenizer's matrices are brought to the nearest rotations (Procrustes, by singular values). People with ids
    that the tokenizer does not have (words allow 1024, whatever the codebook) are malformed predictions: left out.
    """
    people = [p for p in people if _known(p.pose_tokens, tokenizer)]
    values = iter(_detokenize([p.pose_tokens for p in people if p.pose_tokens is not None], tokenizer))
    return [
        p if p.pose_tokens is None else replace(p, body_pose=nearest_rotation(next(values).reshape(JOINTS, 3, 3)))
        for p in people
    ]


def encode_instances(instances: Sequence[Instance], tokenizer: Tokenizer) -> list[Instance]:
    """The same instances with ``mask_tokens``; those that have them already keep them."""
    missing = [i for i in instances if i.mask_tokens is None]
    ids = iter(_tokenize(mask_images(missing), tokenizer))
    return [i if i.mask_tokens is not None else replace(i, mask_tokens=next(ids)) for i in instances]


def decode_instances(instances: Sequence[Instance], tokenizer: Tokenizer) -> list[Instance]:
    """The same instances with ``mask`` (64, 64) probabilities from their ``mask_tokens`` (logits through a sigmoid).

    Instances with ids that the tokenizer does not have are left out, see :func:`decode_people`.
    """
    instances = [i for i in instances if _known(i.mask_tokens, tokenizer)]
    logits = iter(_detokenize([i.mask_tokens for i in instances if i.mask_tokens is not None], tokenizer))
    return [
        i
        if i.mask_tokens is None
        else replace(i, mask=torch.sigmoid(torch.from_numpy(next(logits))).numpy().reshape(MASK_SIDE, MASK_SIDE))
        for i in instances
    ]


def _known(ids: tuple[int, ...] | None, tokenizer: Tokenizer) -> bool:
    return ids is None or max(ids) < tokenizer.config.codebook_size


@torch.inference_mode()
def _tokenize(x: Tensor, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    if not len(x):
        return []
    device = next(tokenizer.parameters()).device
    return [tuple(row) for row in tokenizer.tokenize(x.to(device)).flatten(1).tolist()]


@torch.inference_mode()
def _detokenize(ids: Sequence[tuple[int, ...]], tokenizer: Tokenizer) -> list[np.ndarray]:
    if not ids:
        return []
    device = next(tokenizer.parameters()).device
    batch = torch.tensor(ids, device=device).view(len(ids), *tokenizer.config.token_shape)
    return list(tokenizer.decode_tokens(batch).float().cpu().numpy())
