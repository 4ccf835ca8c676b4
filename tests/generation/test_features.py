"""Features of the encoder: layers, ways of pooling, independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import SIZE, bundle, picture

from open4m.errors import GenerationError, UnknownNameError
from open4m.generation import AnyToAny, TokenFeatures

RGB, DEPTH = f"rgb@{SIZE}", f"tok_depth@{SIZE}"
DEPTH_MAP = np.linspace(1, 5, 40 * 48, dtype=np.float32).reshape(40, 48)


def model() -> AnyToAny:
    return AnyToAny(bundle())


def test_layers_are_the_states_between_the_blocks() -> None:
    seen: list[torch.Tensor] = []
    encoder = bundle().model.encoder
    hooks = [block.register_forward_hook(lambda _, __, output: seen.append(output)) for block in encoder]
    try:
        found = model().embed({"rgb": picture()}, layers=[2, 1, 0, -2], pool="none")
    finally:
        for hook in hooks:
            hook.remove()
    assert list(found) == [2, 1, 0, -2]
    np.testing.assert_array_equal(found[1].features, seen[0][0].numpy())
    np.testing.assert_array_equal(found[-2].features, found[1].features)
    with torch.inference_mode():
        np.testing.assert_allclose(found[2].features, bundle().model.encoder_norm(seen[1][0]).numpy(), atol=1e-6)
    assert not np.allclose(found[0].features, found[1].features)


def test_every_token_is_named() -> None:
    inputs = {"rgb": picture(), "depth": DEPTH_MAP, "caption": "two dogs"}
    found = model().embed(inputs, pool="none")
    assert isinstance(found, TokenFeatures) and found.valid.all()
    words = len(np.asarray(model().tokenize({"caption": "two dogs"})["caption"]))
    assert found.features.shape == (16 + 16 + words, 32) and found.features.dtype == np.float32
    for stream, count in ((RGB, 16), (DEPTH, 16), ("caption", words)):
        assert found.positions[found.streams == stream].tolist() == list(range(count))


def test_pooled_features_are_means_and_maps_of_the_tokens() -> None:
    inputs = {"rgb": picture(), "depth": DEPTH_MAP, "caption": "two dogs"}
    tokens = model().embed(inputs, pool="none")
    np.testing.assert_allclose(model().embed(inputs), tokens.features.mean(0), atol=1e-6)
    means, maps = model().embed(inputs, pool="streams"), model().embed(inputs, pool="grid")
    assert set(means) == {RGB, DEPTH, "caption"} and set(maps) == {RGB, DEPTH}
    for stream, mean in means.items():
        np.testing.assert_allclose(mean, tokens.features[tokens.streams == stream].mean(0), atol=1e-6)
    rows = maps[DEPTH].transpose(1, 2, 0).reshape(16, 32)
    np.testing.assert_array_equal(rows, tokens.features[tokens.streams == DEPTH])
    assert maps[RGB].shape == (32, 4, 4)


def test_by_default_the_output_is_pooled() -> None:
    single = model().embed({"rgb": picture()})
    layers = model().embed({"rgb": picture()}, layers=[-1, 2, 1])
    assert single.shape == (32,) and list(layers) == [-1, 2, 1]
    np.testing.assert_array_equal(single, layers[-1])
    np.testing.assert_array_equal(single, layers[2])
    assert not np.allclose(single, layers[1])


@settings(max_examples=10)
@given(
    st.lists(st.sampled_from(["a red ball", "two dogs and a green chair near the window", "", "dog"]), min_size=1),
    st.sampled_from(["mean", "streams", "none"]),
)
def test_a_sample_does_not_depend_on_its_batch(captions: list[str], pool: str) -> None:
    batch = model().embed({"caption": captions}, layers=[1], pool=pool)[1]  # type: ignore[arg-type]
    for row, caption in enumerate(captions):
        alone = model().embed({"caption": caption}, layers=[1], pool=pool)[1]  # type: ignore[arg-type]
        if isinstance(alone, TokenFeatures):
            count = batch.valid[row].sum()
            assert alone.valid.all() and count == len(alone.features)
            assert batch.streams[row].tolist() == ["caption"] * count + [""] * (batch.valid.shape[1] - count)
            assert not batch.features[row, count:].any()
            np.testing.assert_allclose(batch.features[row, :count], alone.features, atol=1e-5)
        else:
            whole = batch["caption"] if pool == "streams" else batch
            np.testing.assert_allclose(whole[row], alone["caption"] if pool == "streams" else alone, atol=1e-5)


def test_what_cannot_be_given_is_refused() -> None:
    for layer in (3, -4, 1.0, True):
        with pytest.raises(GenerationError, match=r"the encoder has 2 blocks\. Expected 0 .* to 2"):
            model().embed({"rgb": picture()}, layers=[layer])  # type: ignore[list-item]
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        model().embed({"rgb": picture()}, pool="meen")  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="complete grid, such as a picture; given is caption"):
        model().embed({"caption": "two dogs"}, pool="grid")
