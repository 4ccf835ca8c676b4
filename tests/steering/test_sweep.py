"""Sweeps with the tiny random system, which follows nothing, and a model that follows exactly."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from tiny_bundle import bundle, picture
from tiny_data import values

from open4m.errors import GenerationError
from open4m.generation import AnyToAny, best_of
from open4m.generation.result import Item, Sample
from open4m.modalities.coco import panoptic_value
from open4m.modalities.det import Box
from open4m.steering import sweep as module
from open4m.steering.controls import parse_control
from open4m.steering.sweep import Sweep, reading, sweep
from open4m.steering.tables import reading_table, sweep_table


def model() -> AnyToAny:
    return AnyToAny(bundle())


def swept(text: str, contexts: list[dict[str, Any]], **options: Any) -> Sweep:
    control, asked = parse_control(text)
    return sweep(model(), control, asked, contexts, **options)


def read(name: str, value: Any, seed: int = 0) -> Sample:
    """A sample that holds one known value."""

    class Known:
        square = value

    return Sample({name: cast(Item, Known())}, [name], seed)


def test_only_the_control_differs_along_a_strip() -> None:
    contexts = [{"caption": "a dog"}, {"caption": "a red ball"}]
    made = swept("metadata.brightness=40,120,200", contexts, seed=5, batch_size=4)
    assert [len(strip) for strip in made.items] == [3, 3] and made.seeds == ((5, 5, 5), (6, 6, 6))
    assert made.labels == ("40", "120", "200") and made.requests[0] == {"brightness": 40}
    (check,) = made.checks
    assert check.measure == "brightness" and check.asked == (40, 120, 200)
    control, _ = parse_control("metadata.brightness")
    found = [[control.measure({"rgb": item.value})[0] for item in strip] for strip in made.items]
    np.testing.assert_allclose(check.found, np.mean(found, axis=0))
    alone = model().generate({"caption": "a red ball", "metadata": {"brightness": 120.0}}, plan=made.plan, seed=6)
    assert alone["rgb"].tokens.tolist() == made.items[1][1].tokens.tolist()
    record = made.to_dict()
    assert record["control"] == "metadata.brightness" and record["checks"][0]["measured"] == list(check.found)


def test_guidance_is_on_the_control_alone() -> None:
    plain = swept("color_palette=#ff0000,#0000ff", [{"caption": "a dog"}])
    strong = swept("color_palette=#ff0000,#0000ff", [{"caption": "a dog"}], guidance=3.0)
    given = ["caption", "color_palette"]
    assert strong.plan == model().plan(["rgb"], given, guidance={"color_palette": 3.0})  # as open4m generate does
    assert strong.plan["rgb"].guidance == {"color_palette": 3}
    apart = {"caption": 2.0, "color_palette": 5.0}
    weighed = swept("color_palette=#ff0000,#0000ff", [{"caption": "a dog"}], guidance=apart)
    assert weighed.plan == model().plan(["rgb"], given, guidance=apart)
    tokens = [[item.tokens.tolist() for item in made.items[0]] for made in (plain, strong)]
    assert tokens[0] != tokens[1] and len(strong.checks) == 3


def test_the_best_of_several_candidates_is_kept() -> None:
    contexts = [{"caption": "a dog"}, {"caption": "a red ball"}]
    made = swept("metadata.brightness=40,200", contexts, seed=5, best_of=3, batch_size=5)
    assert made.best_of == made.to_dict()["best_of"] == 3
    for row, context in enumerate(contexts):
        for column, value in enumerate((40.0, 200.0)):
            inputs = {**context, "metadata": {"brightness": value}}
            best = best_of(model(), model().generate(inputs, plan=made.plan, seed=3 * (5 + row), samples=3))
            assert made.items[row][column].tokens.tolist() == best["rgb"].tokens.tolist()
            assert made.seeds[row][column] == best.seeds[0]
    assert sweep_table([made])[1][0][0] == "metadata.brightness with caption, best of 3"
    with pytest.raises(GenerationError, match="best of 0"):
        swept("metadata.brightness=40,200", contexts, best_of=0)


def test_counts_are_read_from_the_generated_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    run = module.run_rows

    def watched(*arguments: Any) -> list[Sample]:
        seen.append(arguments[2].requested)
        return run(*arguments)

    monkeypatch.setattr(module, "run_rows", watched)
    made = swept("det.dog=0,2", [{"caption": "a dog"}])
    assert seen == [("rgb",), ("semseg", "det")] and [c.measure for c in made.checks] == [
        "boxes read",
        "share of pixels",
    ]


def test_captions_are_measured_themselves() -> None:
    made = swept("metadata.caption_n_words=3,30", [{"rgb": picture()}])
    assert made.output == "caption" and isinstance(made.items[0][0].value, str)


def test_a_model_that_follows_is_seen_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    def painted(level: float, seed: int) -> Sample:
        return read("rgb", np.full((8, 8, 3), level, np.uint8), seed)

    def obedient(_: AnyToAny, rows: Any, *__: Any) -> list[Sample]:
        return [painted(given["metadata"]["brightness"] + 3 * seed, seed) for given, seed in rows]

    monkeypatch.setattr(module, "run_rows", obedient)
    made = swept("metadata.brightness=40,80,120,160,200", [{"caption": "a"}, {"caption": "b"}])
    (check,) = made.checks
    assert check.correlation == pytest.approx(1) and check.follows and 0.9 < check.pooled < 1

    monkeypatch.setattr(module, "run_rows", lambda _, rows, *__: [painted(7, 0) for _ in rows])
    (check,) = swept("metadata.brightness=40,200", [{"caption": "a"}]).checks
    assert not check.follows and check.correlation == 0 and check.to_dict()["pooled_rank_correlation"] is None


def test_what_cannot_be_measured_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tilted = np.zeros((2, 2, 3))
    tilted[0, :, 0], tilted[1, :, 2] = 1, 1  # two planes

    def surfaces(_: AnyToAny, rows: Any, plan: Any, *__: Any) -> list[Sample]:
        """No surface in the first of every three pictures; in all others the same."""
        if plan.requested == ("rgb",):
            return [read("rgb", picture()) for _ in rows]
        return [read("normal", np.zeros((2, 2, 3)) if i % 3 == 0 else tilted) for i in range(len(rows))]

    monkeypatch.setattr(module, "run_rows", surfaces)
    made = swept("metadata.geometric_complexity=0.1,0.2,0.3", [{"caption": "a"}, {"caption": "b"}])
    (check,) = made.checks
    assert check.correlation == 0 and check.chance == 1 and check.unmeasured == 2
    assert np.isnan(check.found[0]) and check.found[1] == check.found[2] == pytest.approx(1 - 0.5**0.5)
    assert check.to_dict()["measured"][0] is None and check.to_dict()["unmeasured"] == 2
    assert "2 pictures left out" in sweep_table([made])[1][0][1]


def test_a_control_may_be_all_that_is_given() -> None:
    made = swept("metadata.brightness=40,200", [{}, {}], seed=3)
    alone = model().generate({"metadata": {"brightness": 200.0}}, plan=made.plan, seed=4)
    assert alone["rgb"].tokens.tolist() == made.items[1][1].tokens.tolist()
    with_caption = swept("metadata.brightness=40,200", [{"caption": "a dog"}])
    names = [row[0] for row in sweep_table([made, with_caption])[1]]
    assert names == ["metadata.brightness alone", "metadata.brightness with caption"]
    assert (made.given, with_caption.to_dict()["given"]) == ((), ["caption"])


def test_something_else_may_be_generated_on_the_way() -> None:
    made = swept("metadata.n_humans=0,2", [{"caption": "a dog"}], via=["det"], seed=3)
    assert made.via == ("det",) and made.to_dict()["via"] == ["det"] and made.output == "rgb"
    assert made.plan.targets[0].modality == "det"
    assert sweep_table([made])[1][0][0] == "metadata.n_humans with caption, via det"
    asked = {"caption": "a dog", "metadata": {"n_humans": 2.0}}
    alone = model().generate(asked, plan=made.plan, seed=3)
    assert alone["rgb"].tokens.tolist() == made.items[0][1].tokens.tolist()


def test_how_well_the_model_reads_is_measured_on_labelled_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Read:
        def __init__(self, value: Any) -> None:
            self.square = value

    def one_too_many(_: AnyToAny, rows: Any, *__: Any) -> list[dict[str, Any]]:
        """Reads as many boxes as there are white rows, and one more; no classes at all."""
        counts = [int(given["rgb"].max(axis=(1, 2)).astype(bool).sum()) for given, _ in rows]
        dog = Box(0, 0, 1, 1, "dog")
        return [{"det": Read([dog] * (n + 1)), "semseg": Read(np.zeros((2, 2), np.uint8))} for n in counts]

    def scene(count: int) -> dict[str, Any]:
        rgb = np.zeros((4, 4, 3), np.uint8)
        rgb[:count] = 255
        boxes = [Box(0, 0, 1, 1, "dog")] * count
        classes = np.full((2, 2), panoptic_value("dog") * (count > 1), np.uint8)
        return {
            "rgb": rgb,
            "det": boxes,
            "semseg": classes,
            "metadata": {"brightness": 9.0, "n_coco_instances": 3 - count},
        }

    monkeypatch.setattr(module, "run_rows", one_too_many)
    scenes = [scene(count) for count in (0, 1, 2, 3)]
    dogs = reading(model(), parse_control("det.dog")[0], scenes)
    assert dogs[0] == pytest.approx(1) and np.isnan(dogs[1])
    assert reading(model(), parse_control("metadata.n_coco_instances")[0], scenes) == pytest.approx((-1.0,))
    assert reading(model(), parse_control("color_palette")[0], []) == (1.0, 1.0, 1.0)  # nothing is read
    assert reading_table({("det.dog", "boxes read"): 1.0})[1] == [("det.dog", "boxes read", "1")]


def test_what_cannot_be_swept_is_refused() -> None:
    control, _ = parse_control("metadata.brightness")
    for asked, contexts in (([1.0], [{}]), ([1.0, 2.0], [])):
        with pytest.raises(GenerationError, match="expected 2 and 1"):
            sweep(model(), control, asked, contexts)
    with pytest.raises(GenerationError, match="caption: is given completely"):
        swept("metadata.caption_n_words=3,30", [{"caption": values()["caption"]}])
