"""Tokenizers with a diffusion decoder: the reference's numbers, other sizes, determinism, training, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from open4m.errors import CheckpointError, GenerationError
from open4m.tokenizers.config import DiffusionConfig, TokenizerConfig
from open4m.tokenizers.diffusion import Sampling
from open4m.tokenizers.divae import DiVAE
from open4m.tokenizers.io import build_tokenizer, load_tokenizer, save_tokenizer
from open4m.tokenizers.vqvae import VQVAE
from tests.reference import verified

SMALL = DiffusionConfig(
    image_size=32,
    patch_size=8,
    latent_dim=8,
    codebook_size=16,
    n_channels=1,
    enc_type="ViT/B_1-Wi_16-H_2",
    dec_type="UNet/B_1-Wi_32-L_3",
    scheduler="ddim",
    beta_schedule="linear",
    prediction_type="sample",
    threshold_ema_dead_code=0.0,
)


def small(**options: object) -> DiVAE:
    """A tiny tokenizer; the last layers, which start at zero, are random, so that everything matters."""
    torch.manual_seed(0)
    model = DiVAE(replace(SMALL, **options))
    for parameter in model.decoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


# -- reference ----------------------------------------------------------------------------------------------------
def test_everything_equals_the_reference() -> None:
    report = verified("divae_unet")
    assert report.kind == "diffusion tokenizer" and not report.unread
    assert {item: check.parts for item, check in report.checks.items()} == {
        "quantized": 1,
        "tokens": 2,
        "forward passes": 7,
        "DDIM chains": 7,
        "DDIM step by step": 15,
        "DDPM chain": 1,
        "noised values": 1,
        "velocities": 1,
    }


def test_level_embedding_equals_the_reference() -> None:
    assert "unet_timestep.dim16" in verified("position_embeddings").checks


# -- sizes and seeds ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoder", ["ViT/B_1-Wi_16-H_2", "Conv/B_1-Wi_16"])
@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (16, 48), (64, 32)])
def test_pictures_of_any_fitting_size(encoder: str, rows: int, columns: int) -> None:
    model = small(enc_type=encoder).eval()
    x = torch.randn(2, 1, rows, columns)
    ids = model.tokenize(x)
    assert ids.shape == (2, rows // 8, columns // 8)
    decoded = model.decode_tokens(ids, Sampling(steps=2))
    assert decoded.shape == x.shape and decoded.dtype == torch.float32 and bool(decoded.isfinite().all())


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(GenerationError, match=r"24 × 32 pixels .* multiples of 16"):
        small().eval().decode_tokens(torch.zeros(1, 3, 4, dtype=torch.int64))


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_a_sample_depends_on_its_seed_only(scheduler: str) -> None:
    model = small(scheduler=scheduler).eval()
    ids = torch.randint(16, (3, 4, 4))
    together = model.decode_tokens(ids, Sampling(steps=3, seed=(1, 2, 3)))
    assert_close(model.decode_tokens(ids[1:2], Sampling(steps=3, seed=2)), together[1:2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.decode_tokens(ids[1:2], Sampling(steps=3, seed=4)), together[1:2], atol=1e-2)
    assert torch.equal(model.decode_tokens(ids), model.decode_tokens(ids, Sampling(steps=25, seed=0)))


def test_clipping_and_scale() -> None:
    ids = torch.randint(16, (1, 4, 4))
    clipped = small().eval().decode_tokens(ids, Sampling(steps=2))
    assert clipped.abs().max() <= 1
    assert small(thresholding=False).eval().decode_tokens(ids, Sampling(steps=2)).abs().max() > 1
    assert_close(small(input_scale=3.0).eval().decode_tokens(ids, Sampling(steps=2)), 3 * clipped)


def test_the_codes_matter() -> None:
    model = small(thresholding=False).eval()
    one, two = (model.decode_tokens(torch.full((1, 4, 4), i), Sampling(steps=2)) for i in (3, 4))
    assert (one - two).abs().max() > 1e-3


# -- training -------------------------------------------------------------------------------------------------------
def test_predictions_and_targets_are_of_the_same_noise() -> None:
    """A network that says nothing (zeros, as at the start) has the loss of its target's variance."""
    for prediction, wanted in (("sample", 4.0), ("epsilon", 1.0)):
        model = DiVAE(replace(SMALL, prediction_type=prediction)).train()
        x = 2 * torch.randn(8, 1, 32, 32)
        output = model(x)
        assert not output.reconstruction.any()
        assert_close(model.loss(output), torch.tensor(wanted), atol=0.15, rtol=0)


def test_a_frozen_encoder_stays_as_it_was() -> None:
    source = VQVAE(replace(TokenizerConfig(), **{k: getattr(SMALL, k) for k in BOTH}, dec_type="Conv/B_1-Wi_16")).eval()
    model = small(freeze_enc=True).train()
    assert not torch.equal(model.quant_proj.weight, source.quant_proj.weight)
    model.load_encoder(source)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not model.encoder.training and not model.quantize.training and model.decoder.training
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    x = torch.randn(4, 1, 32, 32)
    output = model(x)
    assert output.code_loss == 0
    model.loss(output).backward()
    optimizer.step()
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert {key.partition(".")[0] for key in changed} == {"decoder"}
    assert torch.equal(model.tokenize(x), source.tokenize(x))


BOTH = ("image_size", "patch_size", "latent_dim", "codebook_size", "n_channels", "enc_type", "threshold_ema_dead_code")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 32}, r"_codebook\.embed has shape"),
        ({"n_channels": 3}, "n_channels 3, expected 1"),
        ({"input_scale": 2.0}, r"input_scale 2\.0, expected 1\.0"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        small().load_encoder(small(**change))


# -- files ------------------------------------------------------------------------------------------------------------
def test_files_and_number_formats(tmp_path: Path) -> None:
    model = small().eval()
    save_tokenizer(model, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, DiVAE) and loaded.config == model.config and not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    ids = torch.randint(16, (2, 4, 4))
    assert torch.equal(loaded.decode_tokens(ids), model.decode_tokens(ids))
    assert not loaded.get_parameter("encoder.pos_emb").requires_grad
    narrow = load_tokenizer(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in narrow.decoder.parameters()} == {torch.bfloat16}
    difference = narrow.decode_tokens(ids, Sampling(steps=4)) - model.decode_tokens(ids, Sampling(steps=4))
    assert difference.abs().mean() < 0.05


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_tokenizer(small(), tmp_path)
    torch.manual_seed(1)
    load_tokenizer(tmp_path)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "pndm"}, "Expected ddim or ddpm"),
        ({"prediction_type": "score"}, "Expected sample or epsilon or v_prediction"),
        ({"num_train_timesteps": 1}, "at least 2, not 1"),
        ({"n_labels": 5}, "no n_labels"),
        ({"quant_type": "memcodes"}, "no memcodes"),
        ({"image_size_dec": 64}, "image_size_dec"),
        ({"thresholding": 1}, "thresholding is 1, expected bool"),
        ({"beta_schedule": 5}, "beta_schedule is 5, expected str"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_tokenizer(replace(SMALL, **options))


def test_decoders_and_configurations_belong_together() -> None:
    with pytest.raises(CheckpointError, match="needs a DiffusionConfig"):
        build_tokenizer(TokenizerConfig(dec_type="unet_patched"))
    with pytest.raises(CheckpointError, match="not a diffusion decoder"):
        build_tokenizer(replace(SMALL, dec_type="Conv/B_1-Wi_16"))
