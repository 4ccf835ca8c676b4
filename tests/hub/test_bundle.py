"""Bundles: what is written is what is read; everything that does not fit is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from open4m.errors import CheckpointError, UnknownNameError
from open4m.hub import Bundle, BundleInfo, load_bundle, save_bundle
from open4m.hub.published import published_config, to_published
from open4m.modalities.registry import get_modality
from open4m.model import FourM, ModelConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.io import save_tokenizer
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.vqvae import VQVAE
from open4m.weights import CONFIG, WEIGHTS

SENTENCES = ["a red chair beside a small table", "two dogs in the grass"]


def text_tokenizer(*extra_classes: str) -> TextTokenizer:
    return TextTokenizer.train(SENTENCES, class_names=["chair", "dog", *extra_classes])


def depth_tokenizer() -> VQVAE:
    torch.manual_seed(0)
    config = {
        "n_channels": 1,
        "enc_type": "ViT/B_1-Wi_16-H_2",
        "dec_type": "ViT/B_1-Wi_16-H_2",
        "image_size": 112,
        "patch_size": 8,
        "codebook_size": 64,
        "latent_dim": 8,
    }
    return VQVAE(TokenizerConfig.from_dict(config)).eval()


START = {"name": "older", "steps": 5, "samples": 80}


def make_bundle(text: TextTokenizer, tokenizers: dict[str, VQVAE] | None = None) -> Bundle:
    streams = [*get_modality("rgb").streams(112, 8), *get_modality("depth").streams(112, 8)]
    small = [replace(s, vocab_size=64) if s.vocab_size else s for s in streams]
    caption = get_modality("caption").streams(112, 8)[0]
    small.append(replace(caption, vocab_size=text.vocab_size, table="text"))
    model = FourM(ModelConfig(tuple(small), dim=16, encoder_depth=1, decoder_depth=1, num_heads=2), seed=3)
    model.trained = True
    info = BundleInfo(
        name="tiny",
        description="A test",
        image_size=112,
        patch_size=8,
        stream_tokenizers={"tok_depth@112": "depth"} if tokenizers else {},
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        provenance={"steps": 7, "validation_loss": {"loss": 2.5}, "start": START | {"start": START | {"steps": 3}}},
    )
    return Bundle(info, model, tokenizers or {}, text)


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return text_tokenizer()


@pytest.fixture
def saved(tmp_path: Path, text: TextTokenizer) -> tuple[Bundle, Path]:
    bundle = make_bundle(text)
    save_bundle(bundle, tmp_path / "tiny", torch.float32)
    return bundle, tmp_path / "tiny"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(saved: tuple[Bundle, Path]) -> None:
    bundle, folder = saved
    loaded = load_bundle(folder)
    assert loaded.info == bundle.info
    assert loaded.model.config == bundle.model.config
    assert loaded.model.trained
    assert not loaded.model.training
    expected = bundle.model.state_dict()
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert loaded.text is not None
    assert bundle.text is not None
    assert loaded.text.encode(SENTENCES[0]) == bundle.text.encode(SENTENCES[0])
    card = (folder / "README.md").read_text()
    assert "Apache-2.0" in card
    assert "tok_depth@112" in card
    begun = "- steps: 7\n- validation_loss: loss 2.5\n- begun from: older, 5 steps, 80 samples\n- begun from: older, 3"
    assert begun in card
    assert not list(folder.rglob("*.tmp"))


def test_half_precision_storage_and_loading(tmp_path: Path, text: TextTokenizer) -> None:
    bundle = make_bundle(text)
    save_bundle(bundle, tmp_path)
    assert {v.dtype for v in load_file(tmp_path / WEIGHTS).values()} == {torch.bfloat16}
    wide, narrow = load_bundle(tmp_path), load_bundle(tmp_path, dtype=torch.bfloat16)
    assert wide.model.mask_token.dtype == torch.float32
    assert narrow.model.mask_token.dtype == torch.bfloat16
    torch.testing.assert_close(wide.model.mask_token, bundle.model.mask_token, atol=1e-3, rtol=1e-2)


def test_tokenizers_are_read_when_needed(tmp_path: Path, text: TextTokenizer) -> None:
    original = depth_tokenizer()
    save_bundle(make_bundle(text, {"depth": original}), tmp_path)
    loaded = load_bundle(tmp_path)
    assert list(loaded.tokenizers) == ["depth"]
    first = loaded.tokenizer("tok_depth@112")
    assert first is loaded.tokenizer("tok_depth@112")
    ids = torch.arange(196).view(1, 14, 14) % 64
    torch.testing.assert_close(first.decode_tokens(ids), original.decode_tokens(ids), atol=0.1, rtol=0.1)
    with pytest.raises(UnknownNameError, match="tok_rgb"):
        loaded.tokenizer("tok_rgb@112")


def test_the_tokenizer_of_a_stream_must_be_there(text: TextTokenizer) -> None:
    bundle = make_bundle(text, {"depth": depth_tokenizer()})
    with pytest.raises(CheckpointError, match="tok_depth@112 needs the tokenizer 'depth'"):
        Bundle(bundle.info, bundle.model, {}, text)


def test_untrained_models_are_not_saved(tmp_path: Path, text: TextTokenizer) -> None:
    bundle = make_bundle(text)
    bundle.model.initialise(0)
    with pytest.raises(CheckpointError, match="not trained"):
        save_bundle(bundle, tmp_path)


def test_non_finite_weights_are_refused(saved: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, folder = saved
    weights = load_file(folder / WEIGHTS)
    weights["mask_token"][0, 0, 0] = float("nan")
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"not finite: mask_token"):
        load_bundle(folder)
    with torch.no_grad():
        bundle.model.mask_token.fill_(float("inf"))
    with pytest.raises(CheckpointError, match=r"not finite: mask_token"):
        save_bundle(bundle, tmp_path / "other")
    assert not (tmp_path / "other" / CONFIG).exists()


def test_a_vocabulary_of_another_text_tokenizer_is_refused(saved: tuple[Bundle, Path]) -> None:
    text_tokenizer("zebra").save(saved[1] / "text_tokenizer.json")
    with pytest.raises(CheckpointError, match=r"caption has .* ids, the text tokenizer"):
        load_bundle(saved[1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"mask_token": None}, "missing mask_token"),
        ({"extra": torch.zeros(2)}, r"unexpected extra \(2,\)"),
        ({"mask_token": torch.zeros(1, 1, 8)}, r"mask_token has shape \(1, 1, 8\), expected \(1, 1, 16\)"),
    ],
)
def test_weights_must_fit(saved: tuple[Bundle, Path], damage: dict[str, torch.Tensor | None], message: str) -> None:
    weights: dict[str, torch.Tensor | None] = {**load_file(saved[1] / WEIGHTS), **damage}
    save_file({k: v for k, v in weights.items() if v is not None}, saved[1] / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        load_bundle(saved[1])


def test_configurations_must_fit(saved: tuple[Bundle, Path]) -> None:
    config = saved[1] / CONFIG
    original = config.read_text()
    for changes, message in [
        ({"format_version": 99}, "format_version is 99"),
        ({"colour": 1}, "unknown colour"),
        ({"preprocessing": {}}, "preprocessing is"),
        ({"model": {"dim": 16, "depth": 3}}, "unknown keys depth"),
    ]:
        edit(config, **changes)
        with pytest.raises(CheckpointError, match=message):
            load_bundle(saved[1])
        config.write_text(original)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="not a JSON file"):
        load_bundle(saved[1])


def test_missing_and_damaged_files(saved: tuple[Bundle, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither config\.json nor model\.safetensors"):
        load_bundle(tmp_path / "empty")
    (saved[1] / WEIGHTS).write_bytes((saved[1] / WEIGHTS).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_bundle(saved[1])
    (saved[1] / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        load_bundle(saved[1])


def test_published_folders_load_in_the_same_way(tmp_path: Path) -> None:
    beside = tmp_path / "4M_tokenizers_depth_8k_224-448"
    save_tokenizer(depth_tokenizer(), beside)
    tmp_path = tmp_path / "4M-tiny"
    tmp_path.mkdir()
    specs = [*get_modality("rgb").streams(224, 16), *get_modality("depth").streams(224, 16)]
    config = ModelConfig(tuple(specs), dim=8, encoder_depth=1, decoder_depth=1, num_heads=2, tied_output=False)
    model = FourM(config)
    published = {k: v.detach().clone() for k, v in to_published(model.state_dict(), config).items()}
    save_file(published, tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(published_config(config, 224, 16)))
    loaded = load_bundle(tmp_path)
    assert loaded.model.config == config
    assert loaded.model.trained
    assert loaded.info.licence == "non-commercial"
    assert loaded.tokenizer("tok_depth@224").config == depth_tokenizer().config
    assert loaded.info.stream_tokenizers["tok_depth@224"] == "EPFL-VILAB/4M_tokenizers_depth_8k_224-448"
    expected = model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.model.state_dict().items())
