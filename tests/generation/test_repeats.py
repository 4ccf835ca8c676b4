"""Sequences that are written repeatedly: the value that users see is what the model goes on from; and long values."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import bundle, picture, text_tokenizer
from tiny_data import values

from open4m.errors import GenerationError, GenerationWarning
from open4m.generation import AnyToAny, Plan, Result, Tokens
from open4m.generation.codecs import _INSIDE_TEXT, Codecs
from open4m.modalities.det import SHOWN_SCORE, Box
from open4m.modalities.human_poses import Person
from open4m.modalities.metadata import FIELDS
from open4m.modalities.registry import get_modality
from open4m.modalities.sam_instance import Instance
from open4m.tokenizers.instance_codecs import encode_instances, encode_people

DET = get_modality("det")
SPAN = text_tokenizer().sentinel(1)
LAYOUT = [Box(0.6, 0.6, 0.9, 0.9, "dog"), Box(0.1, 0.2, 0.4, 0.5, "cat")]


ORDER = [spec.name for spec in bundle().model.config.streams]


def model() -> AnyToAny:
    return AnyToAny(bundle())


def repeated(name: str, given: str = "rgb", **options: Any) -> Plan:
    return model().plan([name], [given]).edit(name, **{"temperature": 1.0, "repeats": 3, **options})


def sequence(result: Result, name: str, row: int = 0) -> list[int]:
    return result.canvas.sequence(name, row)


def words(result: Result, name: str) -> str:
    return text_tokenizer().decode(sequence(result, name))


def layout(repeats: int = 4) -> Result:
    """Two boxes that all repeats have, because they are given, and others that are drawn."""
    codecs = model().codecs
    ids = codecs.text.encode(DET.to_words(LAYOUT))  # type: ignore[attr-defined]
    plan = repeated("det", "det", repeats=repeats, tokens=60)
    return model().generate({"det": Tokens([*ids, codecs.text.sentinel(1)])}, plan=plan, seed=3)


# -- one thing: what is shown, kept, given back, repainted and seen in chains -----------------------------------------
def test_the_canvas_holds_what_is_shown_of_merged_boxes() -> None:
    out = layout()
    boxes = out["det"].value
    shown = [box for box in boxes if box.score >= SHOWN_SCORE]
    assert len(boxes) > len(shown) >= 2 and boxes[: len(shown)] == shown  # the surest first
    assert words(out, "det").removesuffix(" [EOS]") == DET.to_words(DET.shown(boxes))  # type: ignore[attr-defined]
    kept = model().edit(out, {}, ["depth"], keep=["det"])
    back = model().edit(out, {"det": boxes}, ["depth"])
    assert sequence(kept, "det") == sequence(back, "det") == sequence(out, "det") == out["det"].tokens.tolist()
    assert torch.equal(kept["depth"].tokens, back["depth"].tokens)


def test_boxes_that_are_moved_reach_the_model(tmp_path: Path) -> None:
    out = layout(repeats=2)  # each has score 1/2 or 1, so that all are shown
    boxes = out["det"].value
    assert any(box.score == 0.5 for box in boxes)
    moved = [dataclasses.replace(box, xmin=box.xmin / 2, xmax=box.xmax / 2) for box in boxes]
    DET.write(moved, tmp_path / "moved.json")
    for change in (moved, tmp_path / "moved.json"):
        seen = words(model().edit(out, {"det": change}, ["depth"]), "det")
        assert seen.count("v0=") == len(moved)
    doubtful = [dataclasses.replace(box, score=0.2) for box in moved]
    with pytest.raises(GenerationError, match=f"all {len(moved)} that are given have so low a score"):
        model().edit(out, {"det": doubtful}, ["depth"])
    assert sequence(model().edit(out, {"det": []}, ["depth"]), "det") == [text_tokenizer().eos]


def test_equal_boxes_are_two() -> None:
    text = text_tokenizer()
    twice = Tokens([*text.encode(DET.to_words([LAYOUT[0]] * 2)), SPAN])  # type: ignore[attr-defined]
    out = model().generate({"det": twice}, plan=repeated("det", "det", tokens=8), seed=3)
    assert [box.score for box in out["det"].value[:2]] == [1, 1]
    opened = [model().repaint(out, {"det": [i]}, keep=[]).given.canvas.sequence("det", 0) for i in (0, 1)]
    assert opened[0].count(SPAN) == opened[1].count(SPAN) == 1 and opened[0] != opened[1]


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
def test_items_to_repaint_are_counted_in_the_value(fit: str) -> None:
    boxes = [Box(0.5, 0.7, 0.9, 0.95, "dog"), Box(0.05, 0.05, 0.3, 0.2, "cat"), Box(0.4, 0.3, 0.8, 0.6, "car")]
    if fit == "letterbox":  # of a picture as wide as the square, and half as high: the cat lies in the bar
        boxes[0] = dataclasses.replace(boxes[0], ymin=0.55, ymax=0.7)
    text, picture_given = text_tokenizer(), {"rgb": picture(0, 20, 40)}
    spelled = {box.class_name: DET.to_words([box]) for box in boxes}  # type: ignore[attr-defined]
    begun = Tokens([*text.encode(DET.to_words(boxes)), text.sentinel(1)])  # type: ignore[attr-defined]
    plan = model().plan(["det"], ["rgb", "det"]).edit("det", repeats=4, tokens=60, temperature=1.0)
    out = model().generate({**picture_given, "det": begun}, plan=plan, fit=fit, seed=1)  # type: ignore[arg-type]
    names = [box.class_name for box in out["det"].value if box.score == 1]
    assert set(names) == {"dog", "car"} | ({"cat"} if fit == "crop" else set())
    for class_name in names:
        number = [box.class_name for box in out["det"].value].index(class_name)
        again = model().repaint(out, {"det": [number]}, keep=[])
        seen = text.decode(again.given.canvas.sequence("det", 0))
        assert spelled[class_name] not in seen and seen.count("[S_1]") == 1 and seen.endswith("[EOS]")
        assert all(line in seen for name, line in spelled.items() if name != class_name)
        before = sequence(out, "det")
        gap = again.given.canvas.sequence("det", 0)
        place = gap.index(text.sentinel(1))
        assert gap[:place] == before[:place] and gap[place + 1 :] == before[place + 5 :]  # token for token
    hidden = next((i for i, box in enumerate(out["det"].value) if box.score < SHOWN_SCORE), None)
    assert hidden is not None
    with pytest.raises(GenerationError, match=f"does not see item {hidden} of sample 0"):
        model().repaint(out, {"det": [hidden]})
    with pytest.raises(GenerationError, match=f"has no item {len(out['det'].value)}"):
        model().repaint(out, {"det": [len(out["det"].value)]})


def test_a_kept_palette_is_the_one_that_is_shown() -> None:
    out = model().generate({"rgb": picture()}, plan=repeated("color_palette", repeats=4))
    item = out["color_palette"]
    codecs = model().codecs
    each = [codecs.value(item.spec, ids) for ids in item.repeats]
    assert not any(np.array_equal(item.value, one) for one in each)  # colours are averaged
    kept = model().edit(out, {}, ["depth"], keep=["color_palette"])
    assert np.array_equal(codecs.value(item.spec, torch.tensor(sequence(kept, "color_palette"))), item.value)
    assert np.array_equal(codecs.value(item.spec, item.tokens), item.value)


@pytest.mark.parametrize("name", ["color_palette", "det"])
def test_later_targets_of_a_chain_see_the_merged_value(name: str) -> None:
    plan = model().plan(["depth"], ["caption"], via=[name])
    plan = plan.edit(name, repeats=3, temperature=1.0, tokens=min(plan[name].tokens, 30))
    out = model().generate({"caption": "two dogs"}, plan=plan, seed=5)
    depth = dataclasses.replace(plan["depth"], sees=())
    alone = dataclasses.replace(plan, targets=(depth,), inputs=tuple(sorted(("caption", name), key=ORDER.index)))

    def depth_of(given: Any) -> torch.Tensor:
        return model().generate({"caption": "two dogs", name: given}, plan=alone, seed=5)["depth"].tokens

    assert plan.chained and torch.equal(out["depth"].tokens, depth_of(out[name].value))
    assert not torch.equal(out["depth"].tokens, depth_of(Tokens(out[name].repeats[0])))


def test_a_merged_caption_is_one_of_the_repeats_as_it_was_written() -> None:
    out = model().generate({"rgb": [picture(0), picture(1)]}, plan=repeated("caption", tokens=12, repeats=4))
    for row, item in enumerate(out["caption"]):
        assert sequence(out, "caption", row) in [ids.tolist() for ids in item.repeats]
        assert model().codecs.value(item.spec, item.tokens) == item.value


@pytest.mark.parametrize("name", ["human_poses", "sam_instance", "metadata"])
def test_other_merged_values_are_given_back_as_they_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faint = (encode_instances, lambda instances, _: list(instances))  # masks of random weights are too faint to count
    monkeypatch.setitem(_INSIDE_TEXT, "sam_instance", faint)
    codecs, spec = model().codecs, bundle().model.config.stream(name)
    begun = [token for token in codecs._ids(spec, values()[name]) if token not in (codecs.text.eos, SPAN)]
    plan = repeated(name, name, repeats=2, tokens=16)
    out = model().generate({name: Tokens([*begun, SPAN])}, plan=plan)
    value = out[name].value
    assert len(value)
    seen = codecs.value(spec, torch.tensor(sequence(out, name)))
    assert len(seen) == len(value) and sequence(out, name)[-1] == codecs.text.eos
    back = sequence(model().edit(out, {name: value}, ["depth"]), name)
    assert back[:-1] == sequence(out, name)[:-1]  # of given metadata the other fields stay open


def test_saved_repeats_are_loaded_repeated_and_edited_as_they_were(tmp_path: Path) -> None:
    plan = model().plan(["depth", "det"], ["rgb"]).edit("det", repeats=4, temperature=1.0, tokens=60)
    out = model().generate({"rgb": [picture(0), picture(1)]}, plan=plan, seed=2)
    out.save(tmp_path)
    loaded, again = model().load_result(tmp_path), model().repeat(tmp_path)
    for other in (loaded, again):
        for row in range(2):
            assert sequence(other, "det", row) == sequence(out, "det", row)
            assert other["det"][row].value == out["det"][row].value
            assert [r.tolist() for r in other["det"][row].repeats] == [r.tolist() for r in out["det"][row].repeats]
        edited = model().edit(other, {}, ["normal"], keep=["det"])
        expected = model().edit(out, {}, ["normal"], keep=["det"])
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(edited["normal"], expected["normal"], strict=True))


def test_partial_results_end_with_the_merged_value() -> None:
    plan = repeated("det", tokens=20)
    last = list(model().stream({"rgb": picture()}, plan=plan))[-1].values
    whole = model().generate({"rgb": picture()}, plan=plan)
    assert sequence(last, "det") == sequence(whole, "det") and last["det"].value == whole["det"].value


def test_repeats_of_what_cannot_be_read_are_refused_before_any_work() -> None:
    made = bundle()
    tokenizers = {k: v for k, v in made.info.stream_tokenizers.items() if k != "human_poses"}
    blind = AnyToAny(dataclasses.replace(made, info=dataclasses.replace(made.info, stream_tokenizers=tokenizers)))
    with pytest.raises(GenerationError, match="no tokenizer for human_poses"):
        blind.generate({"rgb": picture()}, plan=repeated("human_poses"))


# -- token for token --------------------------------------------------------------------------------------------------
def test_people_that_are_not_drawn_anew_stay_token_for_token() -> None:
    rng = np.random.default_rng(1)
    (first,) = values()["human_poses"]
    people = [
        dataclasses.replace(first, betas=rng.normal(size=10).astype(np.float32), box=first.box - 0.01 * i)
        for i in range(3)
    ]
    out = model().generate({"human_poses": people}, ["depth"])
    before = sequence(out, "human_poses")
    opened = model().repaint(out, {"human_poses": [1]}, keep=[]).given.canvas.sequence("human_poses", 0)
    assert opened == [*before[:39], text_tokenizer().sentinel(1), *before[78:]]


def test_fields_that_are_not_drawn_anew_stay_in_their_order() -> None:
    text = text_tokenizer()
    pairs = {name: text.encode(" ".join(get_modality("metadata").to_words({name: 3})))  # type: ignore[attr-defined]
             for name in ("n_humans", "original_width", "brightness")}  # fmt: skip
    out = model().generate({"metadata": Tokens([i for ids in pairs.values() for i in ids] + [text.eos])}, ["depth"])
    opened = model().repaint(out, {"metadata": ["original_width"]}, keep=[]).given.canvas.sequence("metadata", 0)
    assert opened == [*pairs["n_humans"], *pairs["brightness"], text.sentinel(1)]


# -- long values ------------------------------------------------------------------------------------------------------
def said(name: str, value: Any) -> tuple[list[int], str]:
    """The word pieces of a value, and the warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ids = Codecs(bundle())._ids(bundle().model.config.stream(name), value)
    return ids, "".join(str(w.message) for w in caught if w.category is GenerationWarning)


@given(st.integers(0, 120), st.sampled_from(["dog", "sports ball", "not a class of theirs"]))
@settings(deadline=None, max_examples=30)
def test_boxes_that_do_not_fit_are_left_out_whole(count: int, class_name: str) -> None:
    boxes = [Box(0.5 - 0.004 * i, 0.1, 0.9, 0.9, class_name) for i in range(count)]  # words begin with the last
    ids, warning = said("det", boxes)
    spec = bundle().model.config.stream("det")
    found = Codecs(bundle()).value(spec, torch.tensor(ids))
    size = len(text_tokenizer().encode(DET.to_words(boxes[:1])))  # type: ignore[attr-defined]
    assert ids[-1] == text_tokenizer().eos and len(ids) == size * len(found) + 1
    assert len(found) == min(count, (spec.max_tokens - 1) // max(size, 1))
    assert [round(box.xmin, 2) for box in found] == [round(box.xmin, 2) for box in reversed(boxes[: len(found)])]
    assert (f"the last {count - len(found)} are left out" in warning) == (len(found) < count)


@given(st.integers(0, 40))
@settings(deadline=None, max_examples=15)
def test_people_that_do_not_fit_are_left_out_whole(count: int) -> None:
    people: list[Person] = values()["human_poses"] * count
    ids, warning = said("human_poses", encode_people(people, bundle().tokenizer("human_poses")))
    kept = min(count, 7)
    assert len(ids) == (39 * kept or 1) + 1 and ids[-1] == text_tokenizer().eos
    assert ("left out" in warning) == (count > kept)


@given(st.lists(st.sampled_from(["dog", "wooden", "a", "chair", "zebra", "xqzxqz"]), max_size=400))
@settings(deadline=None, max_examples=40)
def test_texts_that_are_too_long_lose_whole_words(chosen: list[str]) -> None:
    ids, warning = said("caption", " ".join(chosen))
    kept = text_tokenizer().encode(" ".join(chosen))
    assert ids[-1] == text_tokenizer().eos and len(ids) <= 256 and ids[:-1] == kept[: len(ids) - 1]
    left = next(n for n in range(len(chosen) + 1) if text_tokenizer().encode(" ".join(chosen[:n])) == ids[:-1])
    longer = len(text_tokenizer().encode(" ".join(chosen[: left + 1])))
    assert left == len(chosen) or longer > 255  # not one more would fit
    assert (f"the last {len(chosen) - left} are left out" in warning) == (left < len(chosen))


def test_instances_that_do_not_fit_are_left_out_whole() -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    nested = [Instance(0.5 + (corners - 0.5) * s, np.array([0.5 - s / 2] * 2 + [0.5 + s / 2] * 2))
              for s in np.linspace(0.9, 0.2, 38)]  # fmt: skip
    ids, warning = said("sam_instance", nested)
    assert len(ids) <= 290 and ids[-1] == text_tokenizer().eos
    decoded = text_tokenizer().decode(ids).removesuffix(" [EOS]")
    sizes = [len(run.split()) for point in decoded.split("point ")[1:] for run in point.split("polygon ")[1:]]
    assert sizes and set(sizes) == {20}
    count = len(get_modality("sam_instance").from_words(decoded))  # type: ignore[attr-defined]
    assert f"the last {38 - count} are left out" in warning


def test_whole_metadata_is_as_long_as_in_training() -> None:
    everything = {name: coding.value(0) for name, coding in FIELDS.items()}
    ids, warning = said("metadata", everything)
    found = Codecs(bundle()).value(bundle().model.config.stream("metadata"), torch.tensor(ids))
    assert len(ids) == 40 and list(found) == list(FIELDS)[:20] and not warning


def test_what_cannot_be_shortened_is_refused() -> None:
    codecs = Codecs(bundle())
    with pytest.raises(GenerationError, match="beginning alone is longer than 255"):
        codecs._ids(bundle().model.config.stream("det"), [Box(0, 0, 1, 1, "a b " * 200)])
    with pytest.raises(GenerationError, match="it has gaps"):
        codecs._ids(bundle().model.config.stream("caption"), "[S_1] " + "a dog " * 200)
