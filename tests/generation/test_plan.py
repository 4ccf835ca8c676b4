"""Plans: published defaults, edits, cost, JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from tiny_bundle import SIZE, bundle

from open4m.errors import CheckpointError, GenerationError, UnknownNameError
from open4m.generation import AnyToAny, Plan
from open4m.generation.defaults import GridDefaults, grid_defaults
from tests.reference import golden

RGB = f"rgb@{SIZE}"


def model() -> AnyToAny:
    return AnyToAny(bundle())


def published(section: str) -> dict[str, dict]:
    """Stream → settings of the reference's demo."""
    table = json.loads((golden("generation") / "demo_defaults.json").read_text())
    return {stream: settings for names, settings in table[section].items() for stream in names.split("/")}


def modality(stream: str) -> str:
    return stream.removeprefix("tok_").partition("@")[0]


@pytest.mark.parametrize(("section", "given"), [("rgb_to_all", "rgb"), ("any_to_rgb", "caption")])
def test_defaults_are_the_published_ones(section: str, given: str) -> None:
    expected = published(section)
    names = [modality(s) for s in expected if modality(s) != given]
    plan = model().plan(names, [given])
    for stream, settings in expected.items():
        if modality(stream) == given:
            continue
        target = plan[modality(stream)]
        assert target.scheme == settings["autoregression_scheme"]
        assert target.temperature == settings["temp"]
        assert target.temperature_schedule == settings["temp_schedule"]
        if target.is_sequence:
            assert target.tokens == settings["tokens_per_target"]
        else:
            assert target.tokens == 16  # of this tiny grid
            assert target.steps == min(settings["decoding_steps"], 16)
            assert target.token_schedule == settings["token_decoding_schedule"]
            assert target.guidance == settings["cfg_scale"]
        assert target.top_p == 0.8 and target.top_k == 0


def test_super_resolution_defaults() -> None:
    (settings,) = set(map(json.dumps, published("super_resolution").values()))
    expected = json.loads(settings)
    spec = replace(bundle().model.config.stream(f"tok_depth@{SIZE}"), name=f"tok_depth@{2 * SIZE}")
    found = grid_defaults(bundle(), spec, has_picture=True)
    assert found == GridDefaults(
        expected["decoding_steps"],
        expected["temp"],
        expected["temp_schedule"],
        expected["cfg_scale"],
        expected["autoregression_scheme"],
        expected["token_decoding_schedule"],
    )


def test_a_bundle_changes_defaults_by_situation_and_modality() -> None:
    changes = {"picture": {"guidance": 1.0}, "picture/depth": {"steps": 3, "top_p": 0.9}}
    own = replace(bundle(), info=replace(bundle().info, generation=changes))
    plan = AnyToAny(own).plan(["depth", "normal"], ["rgb"])
    assert [(t.guidance, t.steps, t.top_p) for t in plan.targets] == [(1.0, 3, 0.9), (1.0, 1, 0.8)]
    assert AnyToAny(own).plan(["depth"], ["caption"])["depth"].guidance == 2.0
    changes = {"sequence": {"top_p": 0.5}, "sequence/det": {"guidance": 3.0, "temperature": 0.0}}
    written = AnyToAny(replace(own, info=replace(own.info, generation=changes))).plan(["det", "caption"], ["rgb"])
    assert (written["det"].guidance, written["det"].temperature, written["det"].top_p) == (3.0, 0.0, 0.5)
    assert (written["caption"].guidance, written["caption"].temperature, written["caption"].top_p) == (1.0, 0.3, 0.5)
    wrong = replace(own, info=replace(own.info, generation={"picture": {"heat": 1.0}}))
    with pytest.raises(CheckpointError, match="heat"):
        AnyToAny(wrong).plan(["depth"], ["rgb"])


def test_order_is_the_published_one() -> None:
    order = json.loads((golden("generation") / "demo_defaults.json").read_text())["order"]
    everything = [modality(s) for s in order]
    plan = model().plan(everything[::-1], [])
    assert [t.modality for t in plan.targets] == everything


def test_a_picture_makes_targets_independent_and_averaged() -> None:
    plan = model().plan(["depth", "semseg", "caption", "dinov2_global"], ["rgb"])
    assert not plan.chained and plan.inputs == (RGB,)
    assert {t.modality: t.decode for t in plan.targets} == {
        "dinov2_global": "expected",
        "depth": "expected",
        "semseg": "tokens",
        "caption": "tokens",
    }
    assert all(t.conditions == (RGB,) for t in plan.targets)


def test_chains_let_guidance_grow() -> None:
    plan = model().plan(["rgb", "depth", "caption"], ["color_palette"])
    assert plan.chained
    assert plan["depth"].conditions == ("color_palette",)
    assert plan["rgb"].conditions == ("color_palette", f"tok_depth@{SIZE}")
    assert plan["caption"].conditions == ("color_palette", f"tok_depth@{SIZE}", f"tok_rgb@{SIZE}")


def test_a_grid_that_is_given_in_part_is_not_hidden_by_its_own_guidance() -> None:
    assert model().plan(["depth"], ["rgb", "depth"])["depth"].conditions == (RGB,)
    assert model().plan(["depth"], ["depth"]).cost.encoder_passes == 8  # nothing to contrast with


def test_words_to_picture_goes_through_clip() -> None:
    plan = model().plan(["rgb"], ["caption"])
    assert [t.modality for t in plan.targets] == ["clip", "rgb"] and plan.requested == ("rgb",)
    assert [t.modality for t in model().plan(["rgb"], ["depth"]).targets] == ["rgb"]

    def asking_for(via: object) -> AnyToAny:
        info = replace(bundle().info, generation={"anything/rgb": {"via": via}})
        return AnyToAny(replace(bundle(), info=info))

    for via, expected in (([], ["rgb"]), (["normal"], ["normal", "rgb"]), (["t5_caption"], ["rgb"])):
        assert [t.modality for t in asking_for(via).plan(["rgb"], ["caption"]).targets] == expected
    for wrong in (["normals"], "clip"):
        with pytest.raises(UnknownNameError, match="modality"):
            asking_for(wrong).plan(["rgb"], ["caption"])


def test_what_each_target_sees_is_planned_and_shown() -> None:
    canny, normal, depth = (f"tok_{name}@{SIZE}" for name in ("canny_edge", "normal", "depth"))
    words = model().plan(["depth", "rgb", "caption"], ["color_palette"])  # of words: a chain
    assert [t.sees for t in words.targets] == [(), (depth,), (depth, f"tok_rgb@{SIZE}")]
    via = model().plan(["depth", "caption"], ["rgb"], via=["canny_edge", "normal"])  # of a picture: independent
    assert [t.sees for t in via.targets] == [(), (canny,), (canny, normal), (canny, normal)]
    assert via["depth"].conditions == (RGB, canny, normal) and via.cost.encoder_passes == 2 + 2 + 2 + 1
    shown = " ".join(str(via.edit("caption", sees=[normal])).split())
    assert all(f"│ {text} │" in shown for text in ("inputs", "+ canny_edge", "all above", "+ normal"))
    assert via.independent().chain().chain() == via.chain() != via and not via.independent().chained
    assert Plan.from_dict(json.loads(json.dumps(via.to_dict()))) == via
    with pytest.raises(GenerationError, match=f"^normal cannot see {depth}, which is not"):
        via.edit("normal", sees=[depth])


def test_cost_counts_shared_passes() -> None:
    plan = model().plan(["depth", "normal", "semseg", "color_palette"], ["rgb"])
    assert (plan.cost.encoder_passes, plan.cost.decoder_passes, plan.cost.token_steps) == (2 + 1, 2, 22)
    apart = plan.edit("depth", guidance=1.0).edit("normal", steps=4, decode="tokens")
    assert (apart.cost.encoder_passes, apart.cost.decoder_passes) == (2 + 1 + 8 + 1, 2 + 1 + 8)


def test_plans_survive_json_and_print() -> None:
    plan = model().plan(["depth", "caption"], ["rgb"]).edit("depth", guidance={RGB: 1.5}, temperature=0.5)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    text = str(plan)
    for part in ("tok_depth@32", "1.5 rgb@32", "per token", "encoder passes", "Apache-2.0", "independent"):
        assert part in text


@pytest.mark.parametrize(
    "broken", [{}, {"format_version": 1, "targets": []}, {"format_version": 2, "targets": [{"modality": "x"}]}]
)
def test_what_is_no_plan_is_refused(broken: dict) -> None:
    with pytest.raises(GenerationError):
        Plan.from_dict(broken)


@pytest.mark.parametrize(
    "changes",
    [
        *({"steps": 0}, {"repeats": 2}, {"temperature": -1}, {"top_p": 2}, {"scheme": "x"}),
        *({"temperature_schedule": "x"}, {"steps": 2}, {"top_k": 5.0}, {"temperature_schedule": "onex:inf:1"}),
        *({"token_schedule": "cosine"}, {"gumbel": 1.0}, {"grammar": False}),  # which ROAR and grids would ignore
    ],
)
def test_impossible_settings_are_refused(changes: dict) -> None:
    plan = model().plan(["depth"], ["rgb"])
    with pytest.raises(GenerationError):
        plan.edit("depth", **changes)  # steps 2 does not go with decode "expected"


def test_sequences_have_no_schedules() -> None:
    for changes in ({"token_schedule": "cosine"}, {"temperature_schedule": "linear"}, {"steps": 2}):
        with pytest.raises(GenerationError, match=f"^caption: .*{next(iter(changes))}"):
            model().plan(["caption"], ["rgb"]).edit("caption", **changes)


def test_targets_are_not_guided_by_themselves() -> None:
    plan = model().plan(["depth"], ["rgb"])
    for changes in ({"conditions": [plan["depth"].stream]}, {"guidance": {RGB: 2.0, plan["depth"].stream: 1.0}}):
        with pytest.raises(GenerationError, match=r"^depth: it is guided by .*, its own stream"):
            plan.edit("depth", **changes)


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "gumbel", "guidance"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None])
def test_what_is_no_finite_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(GenerationError, match=f"depth: {name} is .*; expected a finite number"):
        model().plan(["depth"], ["rgb"]).edit("depth", **{name: value})
    if name == "guidance":
        with pytest.raises(GenerationError, match=f"depth: guidance of {RGB} is .*; expected a finite number"):
            model().plan(["depth"], ["rgb"]).edit("depth", guidance={RGB: value})


@pytest.mark.parametrize("name", ["tokens", "steps", "repeats", "decoder_steps"])
@pytest.mark.parametrize("value", [2.5, math.nan, "2"])
def test_what_is_no_whole_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(GenerationError, match=f"depth: {name} is .*; expected a whole number"):
        model().plan(["depth"], ["rgb"]).edit("depth", **{name: value})


def test_every_setting_is_printed() -> None:
    """Those with a column of their own, and in the last one all others that are not as they are by default."""
    plan = model().plan(["depth", "caption"], ["rgb"]).edit("caption", grammar=False, top_k=0.25, repeats=3)
    assert "draws: tokens only" in str(plan)  # of depth, whose value is averaged
    plan = plan.edit("depth", decode="tokens", scheme="maskgit", steps=3, temperature_schedule="linear")
    before = " ".join(str(plan).split())
    assert "draws" not in before and "per token × 3" in before and "0.01 linear" in before
    assert "top_k=0.25, grammar=False" in before
    plan = plan.edit("depth", token_schedule="cosine", top_k=5, gumbel=4.5, decoder_steps=8, decoder_solver="ddim")
    printed = str(plan)
    for setting in ("token_schedule=cosine", "top_k=5", "gumbel=4.5", "decoder_steps=8", "decoder_solver=ddim"):
        assert setting in printed and setting not in before


def test_names_are_checked_and_near_ones_suggested() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'depth'"):
        model().plan(["dept"], ["rgb"])
    with pytest.raises(UnknownNameError, match="Did you mean 'caption'"):
        model().plan(["depth"], ["captions"])
    with pytest.raises(UnknownNameError, match="steps"):
        model().plan(["depth"], ["rgb"]).edit("depth", step=3)
    with pytest.raises(UnknownNameError, match="target of this plan"):
        model().plan(["depth"], ["rgb"]).edit("normal", steps=3)
    with pytest.raises(GenerationError, match="cannot predict t5_caption"):
        model().plan(["t5_caption"], ["rgb"])
    with pytest.raises(GenerationError, match=r"given .* and asked for"):
        model().plan(["rgb"], ["rgb"])
    with pytest.raises(GenerationError, match="Nothing is asked for"):
        model().plan([], ["rgb"])


def test_streams_can_be_named_directly() -> None:
    assert model().plan([f"tok_depth@{SIZE}"], [f"tok_rgb@{SIZE}"]).inputs == (f"tok_rgb@{SIZE}",)
    assert model().plan(["depth", f"tok_depth@{SIZE}"], ["rgb"]).requested == ("depth",)
