"""Poses and masks through the tokenizers whose ids stand inside text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pipeline import person, values
from tiny_bundle import CODES, PATCH, SIZE, VIT, bundle, picture

from open4m.errors import GenerationError
from open4m.generation import Plan
from open4m.generation.codecs import Codecs, Coded
from open4m.generation.pipeline import AnyToAny
from open4m.generation.settings import with_settings
from open4m.modalities.human_poses import Person, nearest_rotation
from open4m.modalities.sam_instance import Instance
from open4m.tokenizers.config import DiffusionConfig
from open4m.tokenizers.diffusion import Sampling
from open4m.tokenizers.divae import DiVAE
from open4m.tokenizers.instance_codecs import (
    decode_instances,
    decode_people,
    encode_instances,
    encode_people,
    mask_images,
    pose_vectors,
)


def people() -> list[Person]:
    rng = np.random.default_rng(3)
    return [replace(person(), body_pose=nearest_rotation(rng.normal(size=(23, 3, 3)))) for _ in range(3)]


def instances() -> list[Instance]:
    rng = np.random.default_rng(4)
    outline = np.array([[0.1, 0.1], [0.5, 0.1], [0.3, 0.6]])
    box = np.array([0.1, 0.1, 0.5, 0.6])
    return [Instance(outline, box, (rng.random((64, 64)) > 0.5).astype(np.float32)), Instance(outline, box)]


def test_people_gain_tokens_and_poses() -> None:
    tokenizer = bundle().tokenizer("human_poses")
    coded = encode_people(people(), tokenizer)
    expected = tokenizer.tokenize(pose_vectors(people())).flatten(1).tolist()
    assert [list(p.pose_tokens or ()) for p in coded] == expected
    assert encode_people(coded, tokenizer) == coded
    decoded = decode_people(coded, tokenizer)
    raw = tokenizer.decode_tokens(torch.tensor(expected)[:, :, None, None])[:, :, 0, 0].view(3, 23, 3, 3).numpy()
    for p, matrices in zip(decoded, raw, strict=True):
        np.testing.assert_allclose(
            p.body_pose @ p.body_pose.transpose(0, 2, 1), np.tile(np.eye(3), (23, 1, 1)), atol=1e-5
        )
        np.testing.assert_allclose(np.linalg.det(p.body_pose), 1, atol=1e-5)
        np.testing.assert_allclose(p.body_pose, nearest_rotation(matrices), atol=1e-5)
    unseen = people()[0]
    assert decode_people([unseen], tokenizer) == [unseen]


def test_instances_gain_tokens_and_masks() -> None:
    tokenizer = bundle().tokenizer("sam_instance")
    images = mask_images(instances())
    assert images.shape == (2, 1, 64, 64) and 0 < images[1].mean() < 1  # the outline was stretched to its box
    coded = encode_instances(instances(), tokenizer)
    ids = tokenizer.tokenize(images)
    assert [list(i.mask_tokens or ()) for i in coded] == ids.flatten(1).tolist()
    decoded = decode_instances(coded, tokenizer)
    for instance, mask in zip(decoded, torch.sigmoid(tokenizer.decode_tokens(ids))[:, 0], strict=True):
        assert instance.mask is not None
        np.testing.assert_allclose(instance.mask, mask.numpy(), atol=1e-6)


def test_ids_that_the_tokenizer_does_not_have_are_left_out() -> None:
    poses, masks = bundle().tokenizer("human_poses"), bundle().tokenizer("sam_instance")
    coded = encode_people(people(), poses)
    wrong = replace(coded[0], pose_tokens=(*(coded[0].pose_tokens or ())[1:], CODES))
    found = decode_people([coded[0], wrong, coded[2]], poses)
    assert [p.pose_tokens for p in found] == [coded[0].pose_tokens, coded[2].pose_tokens]
    first, second = encode_instances(instances(), masks)
    found = decode_instances([replace(first, mask_tokens=(1023,) * 16), second], masks)
    assert [i.mask_tokens for i in found] == [second.mask_tokens]


def test_nobody_and_nothing() -> None:
    poses, masks = bundle().tokenizer("human_poses"), bundle().tokenizer("sam_instance")
    assert encode_people([], poses) == decode_people([], poses) == []
    assert encode_instances([], masks) == decode_instances([], masks) == []
    assert pose_vectors([]).shape == (0, 207, 1, 1) and mask_images([]).shape == (0, 1, 64, 64)


@pytest.mark.parametrize("name", ["caption", "det", "metadata", "color_palette", "human_poses"])
def test_words_come_back(name: str) -> None:
    codecs, spec = Codecs(bundle()), bundle().model.config.stream(name)
    value = values()[name]
    ids = torch.tensor(codecs._ids(spec, value))
    again = codecs.value(spec, ids)
    assert codecs._ids(spec, again)[: len(ids)] == ids.tolist() or name == "human_poses"
    if name == "human_poses":  # the pose itself went through a codebook
        (before,), (after,) = encode_people(value, bundle().tokenizer(name)), again  # type: ignore[arg-type, misc]
        assert after.pose_tokens == before.pose_tokens
        np.testing.assert_allclose(after.box, before.box, atol=1e-3)


def test_what_one_tokenizer_reads_goes_through_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    codecs, config, sizes = Codecs(bundle()), bundle().model.config, []
    edges = codecs.tokenizer(config.stream(f"tok_canny_edge@{SIZE}"))
    lookup = edges.decode_tokens
    monkeypatch.setattr(edges, "decode_tokens", lambda ids, sampling: sizes.append(len(ids)) or lookup(ids, sampling))
    generator = torch.Generator().manual_seed(0)
    names = [f"tok_canny_edge@{SIZE}", f"tok_depth@{SIZE}", f"tok_sam_edge@{SIZE}"] * 5
    coded = [Coded(config.stream(name), torch.randint(CODES, (16,), generator=generator)) for name in names]
    found = codecs.values(coded)
    assert sizes == [8, 2]
    for one, value in zip(coded, found, strict=True):
        alone = codecs.value(one.spec, one.ids)
        assert np.abs(value.astype(float) - alone).max() <= (1e-4 if one.spec.modality == "depth" else 1)


def test_saving_decodes_samples_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = AnyToAny(bundle())
    result = model.generate({"rgb": [picture(0), picture(1)]}, ["depth", "color_palette"])
    before, sizes = result["depth"][0].value, []
    values = model.codecs.values
    monkeypatch.setattr(model.codecs, "values", lambda coded: sizes.append(len(coded)) or values(coded))
    result.save(tmp_path / "out")
    assert sizes == [3]  # one depth map was there already
    assert result["depth"][0].value is before and result["depth"][1].value.shape == before.shape


def with_diffusion() -> AnyToAny:
    """The tiny model, whose depth has a diffusion decoder."""
    torch.manual_seed(0)
    sizes = {"image_size": SIZE, "patch_size": PATCH, "n_channels": 1, "latent_dim": 8, "codebook_size": CODES}
    decoder = DiVAE(DiffusionConfig(**sizes, enc_type=VIT, dec_type="UNet/B_1-Wi_32-L_2", scheduler="ddim")).eval()
    for parameter in decoder.decoder.out.parameters():  # zero at the start
        torch.nn.init.normal_(parameter, std=0.1)
    made = bundle()
    return AnyToAny(replace(made, tokenizers={**made.tokenizers, "depth": decoder}))


def test_diffusion_decoders_draw_from_the_seed_of_their_sample() -> None:
    model = with_diffusion()
    batch = model.generate({"rgb": [picture(0), picture(1)]}, ["depth"], seed=5)["depth"]
    alone = model.generate({"rgb": picture(1)}, ["depth"], seed=6)["depth"]
    assert torch.equal(batch[1].tokens, alone.tokens)
    np.testing.assert_allclose(batch[1].value, alone.value, atol=1e-4)
    same, other = (
        Codecs(model.bundle).value(alone.spec, alone.tokens, alone._probabilities, Sampling(seed=seed))
        for seed in (6, 7)
    )
    np.testing.assert_allclose(same, alone.value, atol=1e-4)
    assert np.abs(other - alone.value).max() > 1e-2


def test_a_plan_says_how_diffusion_decoders_draw(tmp_path: Path) -> None:
    model, drawn = with_diffusion(), []
    decoder = model.bundle.tokenizers["depth"]
    assert isinstance(decoder, DiVAE)
    decoder.decoder.register_forward_hook(lambda *_: drawn.append(1))
    published = model.plan(["depth", "normal"], ["rgb"])
    plan = with_settings(published, {"depth.decoder_solver": "dpm++", "depth.decoder_steps": "4"})
    assert plan == published.edit("depth", decoder_solver="dpm++", decoder_steps=4)
    assert "decoder_steps=4, decoder_solver=dpm++" in " ".join(str(plan).split())
    result = model.generate({"rgb": [picture(0), picture(1)]}, plan=plan)
    found = [item.value for item in result["depth"]]
    assert len(drawn) == 2 * 4  # steps, for each of the two
    default = model.generate({"rgb": picture(0)}, plan=published)["depth"]
    assert torch.equal(default.tokens, result["depth"][0].tokens) and np.abs(default.value - found[0]).max() > 1e-3
    assert len(drawn) == 2 * 4 + 25
    result.save(tmp_path / "out")
    assert Plan.from_dict(json.loads((tmp_path / "out" / "plan.json").read_text())["plan"]) == plan
    again = model.repeat(tmp_path / "out")
    np.testing.assert_array_equal([item.value for item in again["depth"]], found)


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("normal", {"decoder_steps": 10}, "normal: its tokenizer has no diffusion decoder"),
        ("normal", {"decoder_solver": "ddim"}, "normal: its tokenizer has no diffusion decoder"),
        ("caption", {"decoder_steps": 10}, "are for grids"),
        ("depth", {"decoder_steps": 1001}, r"decoder_steps is 1001; expected 1…1000"),
        ("depth", {"decoder_steps": 0}, "expected at least 1"),
        ("depth", {"decoder_solver": "euler"}, r"Known: ddim, ddpm, dpm\+\+"),
    ],
)
def test_what_no_diffusion_decoder_can_do_is_refused_before_any_work(target: str, changes: dict, message: str) -> None:
    model = with_diffusion()
    with pytest.raises(GenerationError, match=message):
        model.generate({"rgb": picture()}, plan=model.plan([target], ["rgb"]).edit(target, **changes))
