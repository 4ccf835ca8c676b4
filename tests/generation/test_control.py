"""Generation under control: masks, repainting, edits, intermediates, weights, streaming, exact repetition."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import GRID, SIZE, bundle, depth_map, picture
from tiny_data import values

from open4m.errors import CheckpointError, GenerationError, ModalityError, UnknownNameError
from open4m.generation import AnyToAny, Masked, Plan, Result, Tokens
from open4m.generation.masks import cover, hidden_cells
from open4m.generation.settings import with_settings
from open4m.modalities.det import Box
from open4m.modalities.metadata import FIELDS

TOK_RGB, RGB, DEPTH = f"tok_rgb@{SIZE}", f"rgb@{SIZE}", f"tok_depth@{SIZE}"
LEFT = np.zeros((SIZE, SIZE), dtype=bool)
LEFT[:, : SIZE // 2] = True
LEFT_CELLS = np.arange(16).reshape(GRID)[:, :2].ravel()


def model() -> AnyToAny:
    return AnyToAny(bundle())


def ids(result: Result, name: str) -> torch.Tensor:
    return torch.stack([sample[name].tokens for sample in result.samples])


# -- masks ----------------------------------------------------------------------------------------------------------
@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_what_is_hidden_is_covered_by_something_visible(rows: int, columns: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    array, hidden = rng.permutation(rows * columns).reshape(rows, columns), rng.random((rows, columns)) < 0.7
    covered = cover(array, hidden)
    assert np.array_equal(covered[~hidden], array[~hidden])
    assert set(covered.ravel()) <= set(array[~hidden] if not hidden.all() else array.ravel())
    assert np.array_equal(cover(np.dstack([array, -array]), hidden)[..., 1], -covered)


def test_cells_that_the_mask_touches_are_hidden() -> None:
    mask = np.zeros((20, 40), dtype=bool)
    mask[4, 10] = mask[19, 39] = True
    assert np.argwhere(hidden_cells(mask, GRID)).tolist() == [[0, 1], [3, 3]]


def test_a_hole_in_a_picture_is_filled_and_its_content_does_not_matter() -> None:
    other = picture(0, SIZE, SIZE)
    other[LEFT] = 77
    filled = [
        model().generate({"rgb": Masked(image, LEFT), "caption": "a dog"}, ["rgb"])
        for image in (picture(0, SIZE, SIZE), other)
    ]
    assert filled[0].plan.inputs == (TOK_RGB, "caption") and filled[0].plan["rgb"].steps > 1
    assert torch.equal(*(ids(result, "rgb") for result in filled))
    known = filled[0].given.canvas.tracks[TOK_RGB].known[0].view(GRID)
    assert not known[:, :2].any() and known[:, 2:].all()
    given_ids = filled[0].given.canvas.tracks[TOK_RGB].ids[0]
    assert torch.equal(ids(filled[0], "rgb")[0].view(GRID)[:, 2:], given_ids.view(GRID)[:, 2:])


@pytest.mark.parametrize("name", ["depth", "semseg", "normal", "clip"])
def test_every_grid_may_have_a_hole(name: str, tmp_path: Path) -> None:
    Image.fromarray(LEFT.astype(np.uint8) * 255).save(tmp_path / "hole.png")
    masks = [LEFT, Image.fromarray(LEFT), tmp_path / "hole.png"]
    found = [model().generate({name: Masked(values()[name], mask)}, [name]) for mask in masks]
    assert torch.equal(ids(found[0], name), ids(found[1], name)) and torch.equal(
        ids(found[0], name), ids(found[2], name)
    )
    assert int(found[0].given.canvas.tracks[found[0].plan[name].stream].known.sum()) == 8


def test_masks_follow_the_crop_and_the_letterbox() -> None:
    mask = np.zeros((40, 80), dtype=bool)
    mask[:, :40] = True
    for fit, expected in (("crop", 2), ("letterbox", 2)):
        out = model().generate({"rgb": Masked(picture(0, 40, 80), mask)}, ["depth"], fit=fit)  # type: ignore[arg-type]
        known = out.given.canvas.tracks[TOK_RGB].known[0].view(GRID)
        assert not known[:, :expected].any()
        assert known[1:3, 2:].all() and bool(known[0, 2:].any()) == (fit == "crop")


def test_masks_that_cannot_be_are_refused(tmp_path: Path) -> None:
    square = picture(0, SIZE, SIZE)
    (tmp_path / "x.png").write_text("no picture")
    cases = [
        ({"rgb": Masked(square, LEFT[:10])}, GenerationError, "the mask has 10 × 32 pixels, the picture 32 × 32"),
        ({"rgb": Masked(square, ~np.zeros_like(LEFT))}, GenerationError, "hides all of it"),
        ({"rgb": Masked(square, np.zeros_like(LEFT))}, GenerationError, "given completely"),
        ({"rgb": Masked(square, LEFT.astype(np.float32))}, ModalityError, "of bool"),
        ({"rgb": Masked(square, tmp_path / "none.png")}, ModalityError, "no such mask"),
        ({"rgb": Masked(square, tmp_path / "x.png")}, ModalityError, "not an image"),
        ({"caption": Masked("a dog", LEFT)}, GenerationError, r"write \[S_1\]"),
        ({"dinov2_global": Masked(values()["dinov2_global"], LEFT)}, GenerationError, "masks are for pictures"),
    ]
    for inputs, error, message in cases:
        with pytest.raises(error, match=message):
            model().generate(inputs, list(inputs))


# -- repainting and editing -------------------------------------------------------------------------------------------
def test_only_the_region_is_drawn_anew() -> None:
    out = model().generate({"caption": "a dog"}, ["depth", "rgb"], samples=2)
    again = model().repaint(out, {"rgb": LEFT})
    before, after = ids(out, "rgb").view(2, *GRID), ids(again, "rgb").view(2, *GRID)
    assert torch.equal(before[:, :, 2:], after[:, :, 2:]) and not torch.equal(before, after)
    assert set(again) == {"rgb"} and again.seeds == (1, 2)
    assert again.plan.inputs == (TOK_RGB, DEPTH, "caption")
    assert torch.equal(again.canvas.tracks[DEPTH].ids, out.canvas.tracks[DEPTH].ids)
    alone = model().repaint(out, {"rgb": LEFT}, keep=[])
    assert alone.plan.inputs == (TOK_RGB,)


def test_overlays_lie_over_a_generated_picture_that_is_kept(tmp_path: Path) -> None:
    out = model().generate({"caption": "a dog"}, ["rgb"])
    new = model().edit(out, {"det": [Box(0.1, 0.2, 0.5, 0.6, "dog")]}, ["sam_instance"], keep=["rgb"])
    new.save(tmp_path)
    kept = Image.fromarray(out["rgb"].square)
    for item in (new["sam_instance"], model().load_result(tmp_path)["sam_instance"]):
        over, blank = (item.modality.draw_all([item.square], item.image.width, [below])[0] for below in (kept, None))
        assert np.array_equal(item.image, over) and not np.array_equal(over, blank)


def test_a_given_photograph_is_repainted_as_tokens() -> None:
    out = model().generate({"rgb": picture()}, ["depth"])
    again = model().repaint(out, {"rgb": LEFT})
    assert again.plan.inputs == (TOK_RGB, DEPTH)
    straight = model().generate({"rgb": Masked(np.asarray(out.given.pictures[0]), LEFT)}, ["depth"])
    assert torch.equal(
        again.given.canvas.tracks[TOK_RGB].ids.view(1, *GRID)[..., 2:],
        straight.given.canvas.tracks[TOK_RGB].ids.view(1, *GRID)[..., 2:],
    )


def test_fields_of_metadata_are_drawn_anew_and_the_others_stay() -> None:
    everything = {field: coding.value(min(coding.top, 3)) for field, coding in FIELDS.items()}
    fields = {name: everything[name] for name in list(FIELDS)[:8]}
    out = model().generate({"metadata": fields}, ["depth"])
    again = model().repaint(out, {"metadata": ["n_humans", "caption_n_words"]})["metadata"].value
    assert {"n_humans", "caption_n_words"} <= set(again)
    assert all(again[name] == fields[name] for name in fields if name not in ("n_humans", "caption_n_words"))
    with pytest.raises(UnknownNameError, match="Did you mean 'n_humans'"):
        model().repaint(out, {"metadata": ["n_human"]})


def test_any_fields_of_metadata_may_be_given_and_are_never_overwritten() -> None:
    given_fields = {"brightness": 200, "n_humans": 2}
    plan = model().plan(["metadata"], ["metadata"])
    out = model().generate({"metadata": given_fields}, plan=plan)["metadata"].value
    assert out["n_humans"] == 2 and FIELDS["brightness"].code(out["brightness"]) == FIELDS["brightness"].code(200)
    assert len(out) > 10  # the others were filled in, each once


def test_boxes_are_drawn_anew_in_their_place() -> None:
    boxes = [Box(0.1 * i, 0.1 * i, 0.1 * i + 0.3, 0.1 * i + 0.3, name) for i, name in enumerate(("dog", "cat", "car"))]
    out = model().generate({"det": boxes}, ["depth"])
    again = model().repaint(out, {"det": [1]})["det"].value
    assert again[0].class_name == "dog" and again[-1].class_name == "car"
    assert all(b.xmin < b.xmax and b.ymin < b.ymax for b in again)  # the gap is filled with whole boxes
    words = model().codecs.text.decode(model().repaint(out, {"det": [1]}, seed=9)["det"].tokens.tolist())
    assert words.count("v0=") == words.count("v1=") == words.count("v2=") == words.count("v3=")
    for wrong in ([3], [-1], ["dog"]):
        with pytest.raises(GenerationError, match="has no item"):
            model().repaint(out, {"det": wrong})


def test_a_change_reaches_what_is_generated_anew() -> None:
    out = model().generate({"caption": "a dog"}, ["det", "depth", "rgb"], seed=4)
    moved = [Box(0.6, 0.1, 0.9, 0.8, "dog")]
    new = model().edit(out, {"det": moved}, seed=4)
    assert set(new) == {"depth", "rgb"} and new.plan.inputs == ("caption", "det")
    assert not torch.equal(ids(new, "depth"), ids(out, "depth"))
    straight = model().generate({"det": moved, "caption": "a dog"}, ["depth", "rgb"], seed=4)
    assert torch.equal(ids(new, "rgb"), ids(straight, "rgb"))
    layout = model().edit(out, {"color_palette": values()["color_palette"]}, ["rgb"], keep=["depth", "caption"])
    assert layout.plan.inputs == (DEPTH, "caption", "color_palette")
    stronger = model().edit(out, {"det": moved}, ["depth"], guidance={"det": 4.0})
    assert stronger.plan["depth"].guidance == {"det": 4.0}
    edited = model().edit(
        out, {"det": moved}, ["depth"], guidance={"det": 4.0}, plan=lambda p: p.edit("depth", steps=2)
    )
    assert edited.plan == stronger.plan.edit("depth", steps=2)
    with pytest.raises(GenerationError, match="Give plan or guidance"):
        model().edit(out, {"det": moved}, plan=stronger.plan, guidance=2.0)
    assert torch.equal(layout.canvas.tracks[DEPTH].ids, out.canvas.tracks[DEPTH].ids)


def test_edits_of_a_letterboxed_picture_refer_to_the_picture() -> None:
    wide = picture(0, 40, 80)
    out = model().generate({"rgb": wide}, ["depth"], fit="letterbox")
    box = [Box(0.1, 0.2, 0.5, 0.6, "dog")]
    new = model().edit(out, {"det": box}, ["depth"], seed=0)
    straight = model().generate({"rgb": wide, "det": box}, ["depth"], fit="letterbox")
    assert torch.equal(ids(new, "depth"), ids(straight, "depth"))
    assert new["depth"].value.shape == out["depth"].value.shape == (16, 32)
    mask = np.zeros((16, 32), dtype=bool)
    mask[:, :16] = True
    again = model().repaint(out, {"depth": mask})
    changed = (ids(again, "depth") != ids(out, "depth"))[0].view(GRID)
    assert not changed[:, 2:].any() and not changed[0].any() and not changed[3].any()


def test_contradictory_edits_are_refused() -> None:
    out = model().generate({"caption": "a dog"}, ["depth", "rgb"])
    cases: list[tuple[dict, dict, str]] = [
        ({"depth": depth_map()}, {"keep": ["depth"]}, "depth is to be kept and to be changed"),
        ({"caption": "x"}, {"targets": ["rgb"], "keep": ["rgb"]}, "rgb is to be kept and to be generated anew"),
        ({"depth": depth_map()}, {"keep": ["rgb"]}, "nothing to generate"),
        ({"depth": depth_map()}, {"targets": ["depth"]}, "given completely"),
    ]
    for changes, options, message in cases:
        with pytest.raises(GenerationError, match=message):
            model().edit(out, changes, **options)
    with pytest.raises(UnknownNameError, match="to keep 'captio'"):
        model().edit(out, {}, ["rgb"], keep=["captio"])
    regions: list[tuple[dict, str]] = [
        ({"depth": np.zeros((8, 8), dtype=bool)}, "the mask is empty"),
        ({"depth": LEFT[:7]}, "the mask has 7 × 32"),
        ({"depth": [1]}, "in a mask of its picture"),
        ({"caption": [1]}, "Change a text by giving it anew"),
    ]
    for region, message in regions:
        with pytest.raises(GenerationError, match=message):
            model().repaint(out, region)
    with pytest.raises(UnknownNameError, match="to draw anew 'normal'"):
        model().repaint(out, {"normal": LEFT})


# -- plans ------------------------------------------------------------------------------------------------------------
def test_intermediates_come_first_and_are_seen() -> None:
    plan = model().plan(["depth"], ["rgb"], via=["semseg", "canny_edge"])
    assert [t.modality for t in plan.targets] == ["semseg", "canny_edge", "depth"] and plan.chained
    assert plan.requested == ("depth",) and "(semseg)" in str(plan)
    out = model().generate({"rgb": picture()}, plan=plan)
    direct = model().generate({"rgb": picture()}, ["depth"])
    assert list(out) == ["depth"] and not torch.equal(ids(out, "depth"), ids(direct, "depth"))
    to_picture = model().plan(["rgb"], ["caption"], via=["normal"])
    assert [t.modality for t in to_picture.targets] == ["normal", "rgb"]  # no CLIP tokens beside a layout
    with pytest.raises(GenerationError, match="asked for and is to be generated on the way"):
        model().plan(["depth"], ["rgb"], via=["depth"])
    with pytest.raises(GenerationError, match="is given"):
        model().plan(["depth"], ["rgb"], via=["rgb"])
    with pytest.raises(UnknownNameError, match="Did you mean 'normal'"):
        model().plan(["depth"], ["rgb"], via=["norml"])


def test_weights_are_named_by_modality() -> None:
    plan = model().plan(["depth", "rgb"], ["caption", "color_palette"], guidance={"caption": 2, "depth": -0.5})
    assert plan["depth"].guidance == {"caption": 2.0}
    assert plan["rgb"].guidance == {"caption": 2.0, DEPTH: -0.5}
    assert all(t.guidance == 3.0 for t in model().plan(["depth", "rgb"], ["caption"], guidance=3).targets)
    with pytest.raises(UnknownNameError, match="Unknown input to weigh 'captions'"):
        model().plan(["depth"], ["caption"], guidance={"captions": 2.0})
    inputs = {"caption": "snow", "depth": depth_map()}

    def generated(weight: float, caption: str) -> torch.Tensor:
        chosen = model().plan(["normal"], list(inputs), guidance={"caption": weight})
        return ids(model().generate({**inputs, "caption": caption}, plan=chosen), "normal")

    assert not torch.equal(generated(2.0, "snow"), generated(-2.0, "snow"))
    assert not torch.equal(generated(2.0, "snow"), generated(2.0, "a red ball"))
    assert torch.equal(generated(0.0, "snow"), generated(0.0, "a red ball"))  # weight 0 ignores the caption
    plain = model().plan(["normal"], list(inputs), guidance=1.0)
    without = model().generate({**inputs, "caption": "[S_1]"}, plan=plain)
    assert torch.equal(generated(0.0, "snow"), ids(without, "normal"))  # which could say anything then


def test_settings_from_text() -> None:
    plan = model().plan(["rgb", "depth", "caption"], ["color_palette"])
    text = {
        **{"rgb.steps": "3", "rgb.temperature": ".7", "rgb.scheme": "maskgit", "rgb.gumbel": "4.5"},
        **{
            "rgb.token_schedule": "monotone_cosine",
            "rgb.top_k": "0.5",
            "depth.guidance": "-1",
            "caption.grammar": "false",
        },
        **{"depth.top_k": "5", "caption.tokens": "9"},
    }
    new = with_settings(plan, text)
    assert (new["rgb"].steps, new["rgb"].temperature, new["rgb"].top_k, new["rgb"].gumbel) == (3, 0.7, 0.5, 4.5)
    assert (new["depth"].guidance, new["depth"].top_k, new["caption"].grammar) == (-1.0, 5, False)
    assert Plan.from_dict(json.loads(json.dumps(new.to_dict()))) == new
    assert model().generate({"color_palette": values()["color_palette"]}, plan=new)["rgb"].tokens.shape == (16,)
    for wrong, message in {
        "rgb.step": "Did you mean 'steps'",
        "rbg.steps": "Did you mean 'rgb'",
        "steps": "Write TARGET.SETTING=VALUE",
        "rgb.grammar": "expected true or false",
        "rgb.steps": "expected a whole number",
        "rgb.temperature": "expected a finite number",
        "rgb.guidance": "expected a finite number",
        "rgb.decoder_solver": "Known: ddim, ddpm, dpm",
        "rgb.token_schedule": "Known: linear, cosine, monotone_cosine",
        "rgb.scheme": "Known: maskgit, roar",
    }.items():
        with pytest.raises((GenerationError, UnknownNameError), match=message):
            with_settings(plan, {wrong: "nan"})
    with pytest.raises(GenerationError, match="gumbel is 1"):
        with_settings(plan, {"rgb.gumbel": "1"})


def test_noise_changes_which_positions_maskgit_decides() -> None:
    plan = model().plan(["depth"], []).edit("depth", scheme="maskgit", steps=4, temperature=1.0)
    runs = [ids(model().generate({}, plan=plan.edit("depth", gumbel=g)), "depth") for g in (0.0, 4.5, 4.5)]
    assert torch.equal(runs[1], runs[2]) and not torch.equal(runs[0], runs[1])
    steps = plan.edit("depth", gumbel=4.0)["depth"].grid_steps(16)
    assert [step.noise for step in steps] == [3.0, 2.0, 1.0, 0.0]


# -- streaming --------------------------------------------------------------------------------------------------------
def test_partial_results_lead_to_the_whole_one() -> None:
    plan = model().plan(["depth", "semseg", "color_palette"], ["rgb"])
    plan = plan.edit("depth", steps=3, decode="tokens").edit("semseg", guidance=1.0)
    whole = model().generate({"rgb": picture()}, plan=plan)
    partials = list(model().stream({"rgb": picture()}, plan=plan))
    assert [(p.target, p.step, p.steps) for p in partials[:4]] == [("depth", i, 3) for i in (1, 2, 3)] + [
        ("semseg", 1, 1)
    ]
    assert [p.known for p in partials[:3]] == pytest.approx([6 / 16, 11 / 16, 1.0])
    assert [p.target for p in partials if p.finished] == ["depth", "semseg", "color_palette"]
    last = partials[-1].values
    assert last.plan == plan and all(torch.equal(ids(last, name), ids(whole, name)) for name in whole)
    first = partials[0].values
    assert list(first) == ["depth"] and first["depth"].value.shape == (SIZE, SIZE)
    assert set(first["depth"].tokens.tolist()) <= set(whole["depth"].tokens.tolist())
    words = [p.values["color_palette"].tokens.tolist() for p in partials if p.target == "color_palette"]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(words))
    assert len(words) == 1 + len(words[-1]) + 2  # one for each id, the closing one, the beginning, the end


def test_leaving_the_loop_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, calls = model(), []
    encode = ours.bundle.model.encode
    monkeypatch.setattr(ours.bundle.model, "encode", lambda inputs: calls.append(1) or encode(inputs))
    steps = ours.stream({"caption": "a dog"}, ["depth", "rgb"])
    assert not calls
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(calls) <= 2 and next(steps, None) is None  # a pass with the caption, one without
    with pytest.raises(GenerationError, match="Nothing is asked for"):
        ours.stream({"caption": "a dog"})


# -- exact repetition -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fit", ["crop", "letterbox"])
def test_saved_results_are_repeated_exactly(tmp_path: Path, fit: str) -> None:
    hole = np.zeros((40, 80), dtype=bool)
    hole[:20] = True
    inputs = {
        "rgb": [picture(0, 40, 80), picture(1, 40, 80)],
        "semseg": Masked(np.full((40, 80), 7, np.uint8), hole),
        "caption": "two [S_1]",
        "t5_caption": values()["t5_caption"],
    }
    plan = model().plan(["depth", "semseg", "sam_instance"], list(inputs), partial=["semseg"])
    plan = plan.edit("sam_instance", repeats=2, tokens=60)
    out = model().generate(inputs, plan=plan, seed=[7, 3], fit=fit)  # type: ignore[arg-type]
    out.save(tmp_path / "out")
    again = model().repeat(tmp_path / "out")
    assert again.seeds == (7, 3) and again.plan == out.plan and again.fit == fit
    again.save(tmp_path / "again")
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("out", "again")
    )
    assert first == second and len(first) > 10
    loaded = model().load_result(tmp_path / "out")
    assert all(torch.equal(a.tokens, b.tokens) for name in out for a, b in zip(loaded[name], out[name], strict=True))
    new = [model().edit(result, {"caption": "a dog"}, ["depth"]) for result in (out, loaded)]
    assert torch.equal(ids(new[0], "depth"), ids(new[1], "depth"))


def test_what_is_no_saved_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="no such file"):
        model().repeat(tmp_path)
    out = model().generate({"caption": "a dog"}, ["depth"])
    out.save(tmp_path)
    record = json.loads((tmp_path / "plan.json").read_text())
    other = {**record, "plan": {**record["plan"], "model": "another"}}
    fewer = {**record, "plan": {**record["plan"], "inputs": []}}
    old = {name: record[name] for name in ("plan", "seeds", "fit")}
    for damaged, message in ((other, "made by another"), (fewer, "do not belong"), (old, "not a complete record")):
        (tmp_path / "plan.json").write_text(json.dumps(damaged))
        with pytest.raises(GenerationError, match=message):
            model().repeat(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(GenerationError, match="not JSON"):
        model().load_result(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps(record))
    (tmp_path / "tokens.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"tokens\.safetensors"):
        model().load_result(tmp_path)
    with pytest.raises(GenerationError, match="for super-resolution, was none"):
        out.save(tmp_path)
        model().repeat(tmp_path, super_resolution=model())


def test_tokens_stay_another_way_to_give_a_part() -> None:
    whole = model().generate({}, ["depth"])["depth"].tokens
    plan = replace(model().plan(["depth"], []), inputs=(DEPTH,))
    out = model().generate({"depth": Tokens(whole, np.arange(16) < 6)}, plan=plan)
    assert torch.equal(out["depth"].tokens[:6], whole[:6])
