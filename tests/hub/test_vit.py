"""The picture encoder: equal to the any-to-any encoder that sees pixels only; published names; strict loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import open4m
from open4m.errors import CheckpointError, DataError, GenerationError, UnknownNameError
from open4m.files import write_json
from open4m.generation.canvas import Canvas
from open4m.hub import load_bundle
from open4m.modalities.rgb import IMAGENET_MEAN, IMAGENET_STD
from open4m.model import FourM, ViT
from open4m.verify.recorded import unpack
from open4m.weights import WEIGHTS
from tests.reference import golden

PUBLISHED = ("fm_mod21_swiglu", "fm_qknorm", "fm_gelu_bias")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    for name in PUBLISHED:
        unpack(golden(name), root / name)
    return {name: root / name for name in PUBLISHED}


def pixels_only(model: FourM, stream: str, images: torch.Tensor, layer: int) -> torch.Tensor:
    canvas = Canvas(model.config.streams, len(images)).with_pixels(stream, images)
    return model.encode(canvas.inputs(), [layer]).layers[layer]


@torch.no_grad()
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_give_the_encoder(name: str, folders: dict[str, Path]) -> None:
    whole, backbone = load_bundle(folders[name]).model, open4m.vit(folders[name])
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = pixels_only(whole, "rgb@224", images, 2)
    torch.testing.assert_close(backbone(images), expected, atol=1e-5, rtol=0)
    first, last = backbone.intermediate(images, [1, -1])
    torch.testing.assert_close(first, pixels_only(whole, "rgb@224", images, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_are_those_of_the_published_encoder(name: str, folders: dict[str, Path]) -> None:
    stored = load_file(folders[name] / WEIGHTS)
    prefixes = ("encoder.", "encoder_norm.", "encoder_embeddings.rgb@224.")
    expected = {key: value for key, value in stored.items() if key.startswith(prefixes)}
    found = open4m.vit(folders[name]).state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@torch.no_grad()
def test_the_bundled_model_gives_its_encoder() -> None:
    whole, backbone = open4m.load("scenes-tiny"), open4m.vit("scenes-tiny")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    expected = whole.embed({"rgb": list(pictures)}, layers=[1, -1], pool="none")
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
    first, last = backbone.intermediate((values - mean) / std, [1, -1])
    np.testing.assert_allclose(first.numpy(), expected[1].features, atol=1e-5)
    np.testing.assert_allclose(last.numpy(), expected[-1].features, atol=1e-5)
    np.testing.assert_allclose(backbone.mean, IMAGENET_MEAN.flatten())
    np.testing.assert_allclose(backbone.std, IMAGENET_STD.flatten())


@torch.no_grad()
def test_a_checkpoint_of_the_encoder_alone_is_enough(folders: dict[str, Path], tmp_path: Path) -> None:
    source = open4m.vit(folders["fm_qknorm"])
    save_file(source.state_dict(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_bytes((folders["fm_qknorm"] / "config.json").read_bytes())
    again, images = open4m.vit(tmp_path), torch.randn(1, 3, 224, 224)
    assert torch.equal(again(images), source(images))


def test_loading_is_strict(folders: dict[str, Path], tmp_path: Path) -> None:
    stored = load_file(folders["fm_gelu_bias"] / WEIGHTS)
    (tmp_path / "config.json").write_bytes((folders["fm_gelu_bias"] / "config.json").read_bytes())
    del stored["encoder.1.mlp.fc1.bias"], stored["encoder_embeddings.rgb@224.mod_emb"]
    stored["encoder.0.attn.proj.weight"] = torch.zeros(3)
    stored["encoder.7.surprise"] = torch.zeros(2)
    save_file(stored, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        open4m.vit(tmp_path)
    for part in (
        "missing encoder.1.mlp.fc1.bias",
        "missing encoder_embeddings.rgb@224.mod_emb",
        "encoder.0.attn.proj.weight has shape (3,)",
        "unexpected encoder.7.surprise",
    ):
        assert part in str(caught.value)


def test_models_without_pixels_are_refused(tmp_path: Path) -> None:
    write_json(
        tmp_path / "config.json", {"domains_in": ["caption"], "domains_out": ["caption"], "dim": 8, "num_heads": 2}
    )
    save_file({"mask_token": torch.zeros(1, 1, 8)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="no pixels among its inputs"):
        open4m.vit(tmp_path)


@torch.no_grad()
def test_other_sizes_of_pictures(folders: dict[str, Path]) -> None:
    trained = open4m.vit(folders["fm_qknorm"])
    wide = open4m.vit(folders["fm_qknorm"], image_size=(96, 160))
    images = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    assert wide(images).shape == (1, 6 * 10, 24)
    torch.testing.assert_close(trained(images), wide(images))
    assert wide.state_dict()["encoder_embeddings.rgb@224.pos_emb"].shape == (1, 60, 24)
    # Rows of a position: the same row and column have the same place in every grid.
    large, small = (m.state_dict()["encoder_embeddings.rgb@224.pos_emb"][0] for m in (trained, wide))
    torch.testing.assert_close(large.view(14, 14, 24)[:6, :10], small.view(6, 10, 24))
    with pytest.raises(DataError, match="multiples of the patch, 16"):
        trained(torch.zeros(1, 3, 100, 160))
    with pytest.raises(ValueError, match="multiple of the patch"):
        open4m.vit(folders["fm_qknorm"], image_size=100)


class Head(nn.Module):
    """A linear head that learns its width from the backbone."""

    def init(self, dim: int) -> None:
        self.linear = nn.Linear(dim, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean(1))


def test_options(folders: dict[str, Path]) -> None:
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    raw, normed = open4m.vit(folders["fm_qknorm"], norm=False), open4m.vit(folders["fm_qknorm"])
    assert not any(key.startswith("encoder_norm") for key in raw.state_dict())
    torch.testing.assert_close(normed.encoder_norm(raw(images)), normed(images))
    assert open4m.vit(folders["fm_qknorm"], output_head=Head())(images).shape == (2, 5)
    half = open4m.vit(folders["fm_qknorm"], dtype=torch.bfloat16)
    torch.testing.assert_close(half(images).float(), normed(images), atol=0.2, rtol=0.2)
    with pytest.raises(GenerationError, match="encoder has 2 blocks"):
        normed.intermediate(images, [3])


def test_untrained_backbones_are_a_function_of_the_seed_and_train() -> None:
    backbone = open4m.vit(size="tiny", weights=None, image_size=32, patch_size=8, output_head=Head())
    assert isinstance(backbone, ViT) and (backbone.dim, len(backbone.encoder), backbone.patch_size) == (384, 6, 8)
    same = open4m.vit(size="tiny", image_size=32, patch_size=8)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3])
    for key, value in same.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[key]), key
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(backbone(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert not backbone.encoder[0].norm1.bias.any()  # type: ignore[union-attr] # a constant, never trained


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="or without weights a size"):
        open4m.vit()
    with pytest.raises(ValueError, match="or without weights a size"):
        open4m.vit("scenes-tiny", size="base")
    with pytest.raises(UnknownNameError, match="Did you mean 'base'"):
        open4m.vit(size="bas")
    with pytest.raises(UnknownNameError, match="Did you mean 'scenes-tiny'"):
        open4m.vit("scenes-tinny")
