"""A small image–text contrastive pair, the stand-in for CLIP, trained on the data set it describes.

Radford et al. 2021 with a locked text side (Zhai et al. 2022): sentence vectors of a frozen encoder are mapped by a
linear head, pictures by a convolutional tower whose 14 × 14 patch tokens live in the same space. The vector of a
picture is the mean of its patch tokens, so that patches can be compared with sentences.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from open4m.errors import CheckpointError, DataError
from open4m.files import atomic_path
from open4m.labeling.teachers.base import Features, Teacher, to_batch
from open4m.precision import fast_dtype

SIDE = 112
WIDTH = 64
TRUNK = 128
SENTENCE_WIDTH = 384


class ResidualBlock(nn.Module):
    """x + two 3 × 3 convolutions with batch norms; dilation widens the view."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class ContrastiveNetwork(nn.Module):
    """Pictures (B, 3, 112, 112) and sentence vectors (B, 384) into one 64-dimensional space."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, TRUNK)
        stem: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            stem += [nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.trunk = nn.Sequential(*(ResidualBlock(TRUNK, dilation) for dilation in (1, 2, 3)))
        self.patch_head = nn.Conv2d(TRUNK, WIDTH, 1, bias=False)
        self.text_head = nn.Linear(SENTENCE_WIDTH, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def patches(self, pictures: Tensor) -> Tensor:
        """(B, 3, 112, 112) in 0…255 → patch tokens (B, 64, 14, 14)."""
        return self.patch_head(self.trunk(self.stem(pictures / 127.5 - 1.0)))

    def loss(self, pictures: Tensor, sentences: Tensor) -> Tensor:
        """Symmetric InfoNCE over the batch."""
        images = F.normalize(self.patches(pictures).float().mean(dim=(2, 3)), dim=-1)
        texts = F.normalize(self.text_head(sentences).float(), dim=-1)
        logits = self.log_scale.clamp(max=np.log(100.0)).exp() * images @ texts.T
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class ContrastiveTeacher(Teacher):
    """64-channel patch tokens with unit mean square over the training pictures; no vector."""

    name: ClassVar[str] = "clip"
    licence: ClassVar[str] = "as the data set it was trained on"
    shorten: ClassVar[bool] = False
    channels = WIDTH
    vector_channels = 0

    def __init__(self, path: str | Path) -> None:
        network = ContrastiveNetwork()
        try:
            network.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise CheckpointError(f"{path}: not a contrastive teacher: {error} Delete it to train it again.") from error
        self._dtype = fast_dtype()
        self._network = network.eval()

    @torch.inference_mode()
    def extract(self, rgb: np.ndarray) -> Features:
        with torch.autocast("cpu", dtype=self._dtype, enabled=self._dtype != torch.float32):
            patches = self._network.patches(to_batch(rgb, SIDE))
        return Features(patches.float().numpy(), None)

    @torch.inference_mode()
    def text_vectors(self, sentences: np.ndarray) -> np.ndarray:
        """Sentence vectors (B, 384) → unit vectors (B, 64) of the shared space."""
        return F.normalize(self._network.text_head(torch.from_numpy(sentences)), dim=-1).numpy()


def train_contrastive(
    rgb: np.ndarray,
    sentences: np.ndarray,
    path: str | Path,
    steps: int = 900,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    show_progress: bool = False,
) -> None:
    """Train the pair on pictures (N, H, W, 3) uint8 and their sentence vectors (N, 384), and save it to ``path``.

    AdamW with a one-cycle schedule; deterministic for a seed and a number of threads. The patch head is rescaled
    at the end so that patch tokens have unit mean square (the loss does not see their scale).
    """
    if len(rgb) < batch_size:
        raise DataError(f"A contrastive teacher needs at least {batch_size} training pictures, found {len(rgb)}.")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ContrastiveNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    dtype = fast_dtype()
    for _ in track(range(steps), "training the contrastive pair", disable=not show_progress):
        rows = rng.choice(len(rgb), batch_size, replace=False)
        pictures, vectors = to_batch(rgb[rows], SIDE), torch.from_numpy(sentences[rows])
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = network.loss(pictures, vectors)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        sample = network.patches(to_batch(rgb[: min(len(rgb), 256)], SIDE))
        network.patch_head.weight /= sample.square().mean().sqrt()
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, temporary)
