"""Chains of two models: what one makes at a low resolution, the other makes finer; and words → CLIP → picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundle import bundle, picture
from tiny_finer import COARSE, finer

from open4m.errors import GenerationError
from open4m.generation import AnyToAny, Plan
from open4m.generation.super_resolution import low_resolution
from open4m.hub.bundle import Bundle, BundleInfo
from open4m.hub.published import published_streams
from open4m.modalities.registry import get_modality
from open4m.model import FourM, ModelConfig
from tests.reference import golden

PUBLISHED_COARSE = ["rgb@224", *(f"tok_{n}@224" for n in COARSE), "caption", "det"]
PUBLISHED_FINE = [f"tok_{n}@448" for n in COARSE]


def coarse() -> AnyToAny:
    return AnyToAny(bundle())


def quick(model: AnyToAny, targets: list[str], given: list[str]) -> Plan:
    plan = model.plan(targets, given)
    for target in plan.targets:
        plan = plan.edit(target.modality, tokens=8) if target.is_sequence else plan.edit(target.modality, steps=1)
    return plan


def test_one_call_makes_everything_that_can_be_finer_finer() -> None:
    given, targets = {"rgb": picture()}, ["depth", "semseg", "color_palette"]
    first = coarse().generate(given, targets, seed=4)
    both = coarse().generate(given, targets, seed=4, super_resolution=finer())
    assert list(both) == list(first) == targets
    assert (both["depth"].value.shape, first["depth"].value.shape) == ((64, 64), (32, 32))
    assert both["semseg"].value.shape == (64, 64) and both["depth"].spec.name == "tok_depth@64"
    np.testing.assert_array_equal(both["color_palette"].value, first["color_palette"].value)
    again = finer().upscale(first)
    assert torch.equal(both["depth"].tokens, again["depth"].tokens) and len(again["depth"].tokens) == 64
    assert first["depth"].value.shape == (32, 32) and first.super_resolution is None
    assert both.super_resolution is not None
    assert both.super_resolution.inputs == ("rgb@32", "tok_depth@32", "tok_semseg@32")
    assert [t.stream for t in both.super_resolution.targets] == ["tok_depth@64", "tok_semseg@64"]


def test_finer_tokens_depend_on_the_coarse_ones() -> None:
    results = [
        coarse().generate({"rgb": picture(i)}, ["depth"], super_resolution=finer())["depth"].tokens for i in range(2)
    ]
    assert not torch.equal(*results)


def test_letterboxes_and_batches_go_through(tmp_path: Path) -> None:
    out = coarse().generate(
        {"rgb": [picture(0, 40, 80), picture(1, 64, 40)]}, ["depth"], fit="letterbox", super_resolution=finer()
    )
    assert [item.value.shape for item in out["depth"]] == [(32, 64), (64, 40)]
    out.save(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert Plan.from_dict(record["super_resolution"]) == out.super_resolution
    assert get_modality("depth").read(tmp_path / "out" / "0000" / "depth.png").shape == (32, 64)


def test_words_become_a_fine_picture_through_clip() -> None:
    plan = quick(coarse(), ["rgb"], ["caption"])
    out = coarse().generate({"caption": "two dogs"}, plan=plan, super_resolution=finer())
    assert out.super_resolution is not None
    assert [t.stream for t in out.super_resolution.targets] == ["tok_clip@64", "tok_rgb@64"]
    assert out.super_resolution.inputs == ("tok_rgb@32", "tok_clip@32", "caption")
    assert out["rgb"].value.shape == (64, 64, 3) and list(out) == ["rgb"]
    assert out["rgb"].image.size == (224, 224)


def test_an_empty_caption_is_taken_for_unknown() -> None:
    given = coarse()._reader.read({"caption": ["", "two dogs"], "metadata": {"n_humans": 1}})
    found = low_resolution(finer().bundle, given.canvas)
    assert set(found.tracks) == {"caption"}
    assert found.sequence("caption", 0) == [5] and len(found.sequence("caption", 1)) > 1


def test_models_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(GenerationError, match=r"finer can raise the resolution of clip, depth.*color_palette is"):
        coarse().generate({"rgb": picture()}, ["color_palette"], super_resolution=finer())
    config = finer().bundle.model.config
    streams = tuple(replace(s, vocab_size=9) if s.name == "tok_depth@32" else s for s in config.streams)
    other = FourM(replace(config, streams=streams))
    other.trained = True
    strange = AnyToAny(replace(finer().bundle, model=other))
    with pytest.raises(GenerationError, match="tok_depth@32 has vocab_size 9, that of the first model 24"):
        coarse().generate({"rgb": picture()}, ["depth"], super_resolution=strange)


# -- the published numbers -------------------------------------------------------------------------------------------
def published(domains_in: list[str], domains_out: list[str]) -> AnyToAny:
    """A model with the published streams and no weights to speak of; only plans are made with it."""
    streams = published_streams(domains_in, domains_out, 224, 16, "test")
    with torch.device("meta"):
        model = FourM(ModelConfig(streams, dim=16, encoder_depth=1, decoder_depth=1, num_heads=1))
    model.trained = True
    return AnyToAny(Bundle(BundleInfo("published", "", 224, 16, {}, "", ""), model, {}))


def demo_settings(section: str) -> dict[str, dict]:
    table = json.loads((golden("generation") / "demo_defaults.json").read_text())
    return {stream: settings for names, settings in table[section].items() for stream in names.split("/")}


def as_published(plan: Plan) -> dict[str, dict]:
    """The grid targets of a plan in the reference's words."""
    return {
        t.stream: {
            "tokens_per_target": t.tokens,
            "autoregression_scheme": t.scheme,
            "decoding_steps": t.steps,
            "token_decoding_schedule": t.token_schedule,
            "temp": t.temperature,
            "temp_schedule": t.temperature_schedule,
            "cfg_scale": t.guidance,
            "cfg_schedule": "constant",
        }
        for t in plan.targets
        if not t.is_sequence
    }


def test_a_caption_becomes_a_picture_with_the_published_numbers() -> None:
    model = published(PUBLISHED_COARSE, PUBLISHED_COARSE[1:])
    plan = model.plan(["rgb"], ["caption"])
    expected = demo_settings("any_to_rgb")
    assert as_published(plan) == {name: expected[name] for name in ("tok_clip@224", "tok_rgb@224")}
    assert [t.conditions for t in plan.targets] == [("caption",), ("caption", "tok_clip@224")]
    assert all(t.top_p == 0.8 and t.top_k == 0 for t in plan.targets)


def test_super_resolution_has_the_published_numbers_and_order() -> None:
    base = published(PUBLISHED_COARSE, PUBLISHED_COARSE[1:]).plan([*COARSE, "det"], ["caption"])
    plan = published([*PUBLISHED_COARSE, "rgb@448", *PUBLISHED_FINE], PUBLISHED_FINE).plan_upscale(base)
    table = json.loads((golden("generation") / "demo_defaults.json").read_text())
    assert [t.stream for t in plan.targets] == table["order_super_resolution"]
    assert as_published(plan) == demo_settings("super_resolution")
    assert plan.inputs == (*PUBLISHED_COARSE[1:],) and plan.chained
    assert plan["clip"].conditions == plan.inputs
    assert plan["rgb"].conditions == (*plan.inputs, *(s for s in table["order_super_resolution"] if "rgb" not in s))


def test_from_a_photograph_super_resolution_is_chained_and_keeps_the_pixels() -> None:
    base = published(PUBLISHED_COARSE, PUBLISHED_COARSE[1:]).plan(["depth", "normal"], ["rgb"])
    plan = published([*PUBLISHED_COARSE, "rgb@448", *PUBLISHED_FINE], PUBLISHED_FINE).plan_upscale(base)
    assert plan.inputs == ("rgb@224", "tok_depth@224", "tok_normal@224") and plan.chained
    assert [t.stream for t in plan.targets] == ["tok_depth@448", "tok_normal@448"]
