"""Our models in the published format, and back, bit by bit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_bundle import bundle, picture

from open4m.files import read_json
from open4m.generation import AnyToAny
from open4m.hub import Bundle, describe, export_bundle, load_bundle, save_bundle
from open4m.hub.published import is_published
from open4m.weights import CONFIG, WEIGHTS, header_config


def assert_same(found: Bundle, expected: Bundle) -> None:
    assert found.info == expected.info and found.config == expected.config
    ours, theirs = expected.model.state_dict(), found.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_bundled_model_is_exported_and_comes_back(tmp_path: Path) -> None:
    export_bundle("scenes-tiny", tmp_path / "published")
    stored = load_file(tmp_path / "published" / WEIGHTS)
    config = read_json(tmp_path / "published" / CONFIG)
    assert is_published(config) and config == header_config(tmp_path / "published" / WEIGHTS)
    for stream in config["domains_out"]:  # the published names, each with a copy of its own
        for part in ("mod_emb", "pos_emb", "token_emb.weight", "to_logits.weight"):
            assert f"decoder_embeddings.{stream}.{part}" in stored
    original, back = load_bundle("scenes-tiny"), load_bundle(tmp_path / "published")
    assert describe(tmp_path / "published").published
    assert_same(back, original)
    export_bundle(tmp_path / "published", tmp_path / "own", "open4m")
    again = load_file(tmp_path / "own" / WEIGHTS)
    for key, value in load_file(original_weights()).items():
        assert again[key].dtype == value.dtype and torch.equal(again[key], value), key
    name = original.info.stream_tokenizers["tok_depth@112"]
    for key, value in original.tokenizers[name].state_dict().items():
        assert torch.equal(back.tokenizers[name].state_dict()[key], value), key
    assert not (tmp_path / "own" / "bundle.json").exists()


def original_weights() -> Path:
    weights = describe("scenes-tiny").weights
    assert weights is not None
    return weights


def test_an_exported_model_generates_the_same(tmp_path: Path) -> None:
    save_bundle(bundle(), tmp_path, torch.float32, layout="published")
    back = load_bundle(tmp_path)
    assert_same(back, bundle())
    inputs = {"rgb": picture()}
    expected, found = (AnyToAny(b).generate(inputs, ["depth", "caption"], seed=1) for b in (bundle(), back))
    for name in ("depth", "caption"):
        assert torch.equal(found[name].tokens, expected[name].tokens)


def test_an_export_replaces_what_was_there(tmp_path: Path) -> None:
    save_bundle(bundle(), tmp_path, torch.float32, layout="published")
    save_bundle(bundle(), tmp_path, torch.float32)
    assert_same(load_bundle(tmp_path), bundle())
    assert not is_published(read_json(tmp_path / CONFIG))
