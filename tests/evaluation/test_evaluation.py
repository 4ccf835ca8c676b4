"""Scores beside baselines and bounds: values by hand, and the whole way with the tiny system."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import SIZE, bundle
from tiny_data import SPLIT, values, write_data

from open4m.errors import DataError, GenerationError
from open4m.evaluation import Report, TargetScores, evaluate, read_values
from open4m.evaluation.baselines import another_picture, baselines, mean_map
from open4m.evaluation.tables import HEADER, markdown, number, rows
from open4m.generation import AnyToAny
from open4m.modalities.base import DenseModality
from open4m.modalities.registry import all_modalities, get_modality


def dense(name: str) -> DenseModality[np.ndarray]:
    modality = get_modality(name)
    assert isinstance(modality, DenseModality)
    return modality


def grey(*levels: int) -> list[np.ndarray]:
    return [np.full((2, 2, 3), level, np.uint8) for level in levels]


# -- baselines --------------------------------------------------------------------------------------------------------
def test_mean_map_is_the_mean_of_the_other_half() -> None:
    found = [int(v[0, 0, 0]) for v in mean_map(dense("rgb"), grey(10, 20, 100, 200, 240))]
    assert found == [180, 180, 15, 15, 15]  # (100 + 200 + 240) / 3 and (10 + 20) / 2


@given(st.lists(st.integers(0, 255), min_size=2, max_size=9), st.data())
def test_mean_map_never_uses_a_picture_for_itself(levels: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(levels) - 1))
    changed = [*levels[:index], 255 - levels[index], *levels[index + 1 :]]
    before, after = (mean_map(dense("rgb"), grey(*some))[index] for some in (levels, changed))
    assert np.array_equal(before, after)


def test_mean_map_works_position_by_position() -> None:
    first, second = np.zeros((2, 2), np.uint8), np.array([[0, 255], [255, 0]], np.uint8)
    a, b = mean_map(dense("canny_edge"), [first, second])
    assert np.array_equal(a, second) and np.array_equal(b, first)


def test_mean_of_class_maps_is_the_commonest_class() -> None:
    ours = [np.array([[7, 7]], np.uint8)] * 3
    others = [np.array([[1, 133]], np.uint8), np.array([[1, 133]], np.uint8), np.array([[9, 2]], np.uint8)]
    found = mean_map(dense("semseg"), [*ours, *others])
    assert [v.tolist() for v in found] == [[[1, 133]]] * 3 + [[[7, 7]]] * 3
    assert all(v.dtype == np.uint8 for v in found)


def test_mean_normals_are_unit_vectors() -> None:
    x, y = np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 3), np.float32)
    x[..., 0], y[..., 1] = 1, 1
    found = mean_map(dense("normal"), [y, y, x, y])
    np.testing.assert_allclose(found[0][0, 0], [0.5**0.5, 0.5**0.5, 0], atol=1e-6)


def test_another_picture_is_half_the_list_away() -> None:
    assert another_picture(get_modality("caption"), ["a", "b", "c", "d"]) == ["c", "d", "a", "b"]
    assert another_picture(get_modality("caption"), ["a", "b", "c"]) == ["b", "c", "a"]


def test_words_have_no_mean() -> None:
    assert set(baselines(get_modality("caption"))) == {"another picture"}
    assert set(baselines(get_modality("depth"))) == {"another picture", "mean map"}


# -- reading ----------------------------------------------------------------------------------------------------------
def test_values_come_back_from_a_data_set(tmp_path: Path) -> None:
    write_data(tmp_path, 4, names=("rgb", "caption", "semseg"))
    found = read_values(tmp_path, SPLIT, ["caption", "rgb", "semseg"], limit=2, first=1)
    assert [sample["caption"] for sample in found] == ["a red ball and 1 dogs", "a red ball and 2 dogs"]
    for name in ("rgb", "semseg"):
        assert np.array_equal(found[0][name], values(1)[name])
    assert len(read_values(tmp_path, SPLIT, ["rgb"])) == 4
    assert len(read_values(tmp_path, SPLIT, ["rgb"], limit=9, first=3)) == 1


def test_reading_says_what_is_missing(tmp_path: Path) -> None:
    write_data(tmp_path, 2, names=("rgb", "caption"))
    with pytest.raises(DataError, match=r"no sample 2: its samples are 0…1"):
        read_values(tmp_path, SPLIT, ["rgb"], first=2)
    with pytest.raises(DataError, match="depth"):
        read_values(tmp_path, SPLIT, ["rgb", "depth"])
    with pytest.raises(DataError, match="train"):
        read_values(tmp_path, "train", ["rgb"])


# -- the whole way ----------------------------------------------------------------------------------------------------
TARGETS = ("depth", "normal", "semseg", "color_palette")


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return AnyToAny(bundle())


@pytest.fixture(scope="module")
def outcome(model: AnyToAny) -> tuple[Report, list[dict[str, object]]]:
    return evaluate(model, [values(i) for i in range(5)], ["rgb"], TARGETS, data="here", seed=7, batch_size=2)


def test_report_holds_every_target_and_opponent(outcome: tuple[Report, list[dict[str, object]]]) -> None:
    report, predictions = outcome
    assert (report.model, report.data, report.inputs, report.samples, report.seed) == ("tiny", "here", ("rgb",), 5, 7)
    assert tuple(entry.target for entry in report.targets) == TARGETS
    assert len(predictions) == 5 and all(tuple(p) == TARGETS for p in predictions)
    for entry in report.targets:
        modality = get_modality(entry.target)
        assert set(entry.baselines) == set(baselines(modality))
        for scores in (entry.model, entry.bound, *entry.baselines.values()):
            assert set(scores) == set(modality.card.metrics)
    json.loads(json.dumps(report.to_dict(), allow_nan=False))


def test_predictions_do_not_depend_on_the_batches(
    model: AnyToAny, outcome: tuple[Report, list[dict[str, object]]]
) -> None:
    alone = model.generate({"rgb": values(3)["rgb"]}, TARGETS, seed=7 + 3)
    assert np.array_equal(alone["semseg"].value, outcome[1][3]["semseg"])


def test_scores_are_those_of_the_modality(outcome: tuple[Report, list[dict[str, object]]]) -> None:
    report, predictions = outcome
    truths = [values(i)["semseg"] for i in range(5)]
    entry = next(e for e in report.targets if e.target == "semseg")
    assert entry.model == get_modality("semseg").score([p["semseg"] for p in predictions], truths)
    assert entry.baselines["another picture"] == get_modality("semseg").score([*truths[2:], *truths[:2]], truths)


def test_the_bound_is_the_truth_after_its_own_tokens(
    model: AnyToAny, outcome: tuple[Report, list[dict[str, object]]]
) -> None:
    truths = [values(i)["depth"] for i in range(5)]
    entry = next(e for e in outcome[0].targets if e.target == "depth")
    ids = model.tokenize({"depth": truths})[f"tok_depth@{SIZE}"]
    spec = model.bundle.model.config.stream(f"tok_depth@{SIZE}")
    through = [model.codecs.value(spec, row) for row in ids]
    assert entry.bound == get_modality("depth").score(through, truths)


def test_the_bound_of_words_is_their_grammar(outcome: tuple[Report, list[dict[str, object]]]) -> None:
    palette = next(e for e in outcome[0].targets if e.target == "color_palette")
    assert palette.bound == {"delta_E": 0.0}
    assert palette.baselines["another picture"]["delta_E"] > 5


def test_values_survive_their_tokens(model: AnyToAny) -> None:
    assert model.reconstruct("caption", ["Two dogs", "a  red ball"]) == ["two dogs", "a red ball"]
    palettes = [values(i)["color_palette"] for i in range(2)]
    assert all(
        np.array_equal(a, b) for a, b in zip(model.reconstruct("color_palette", palettes), palettes, strict=True)
    )
    (box,) = model.reconstruct("det", [values()["det"]])[0]
    assert box.class_name == "dog" and np.allclose(box.corners, values()["det"][0].corners, atol=0.5 / 999)
    assert len(model.reconstruct("human_poses", [values()["human_poses"]])[0]) == 1
    assert model.reconstruct("semseg", [values()["semseg"]])[0].shape == (SIZE, SIZE)


def test_default_targets_are_what_the_samples_hold(model: AnyToAny) -> None:
    samples = [{n: values(i)[n] for n in ("rgb", "caption", "canny_edge", "sam_edge")} for i in range(2)]
    told: list[int] = []
    report, _ = evaluate(model, samples, ["rgb", "caption"], batch_size=1, progress=told.append)
    assert [entry.target for entry in report.targets] == ["canny_edge", "sam_edge"]
    assert told == [1, 1]


def test_bad_requests_are_refused(model: AnyToAny) -> None:
    samples = [values(0), values(1)]
    with pytest.raises(GenerationError, match="at least two"):
        evaluate(model, samples[:1], ["rgb"], ["depth"])
    with pytest.raises(GenerationError, match="batch_size is 0"):
        evaluate(model, samples, ["rgb"], ["depth"], batch_size=0)
    with pytest.raises(GenerationError, match="Nothing to score"):
        evaluate(model, samples, ["rgb"], ["rgb"])


# -- tables -----------------------------------------------------------------------------------------------------------
def report_of(*targets: TargetScores) -> Report:
    return Report("m", "d", ("rgb",), 2, 0, targets)


DEPTH = TargetScores(
    "depth",
    {"l1": 0.12345, "abs_rel": 0.5, "delta1": 1.0},
    {"mean map": {"l1": 1234.5, "abs_rel": 0.25, "delta1": 0}, "another picture": {"l1": 2, "abs_rel": 1, "delta1": 0}},
    {"l1": 0.01, "abs_rel": 0.1, "delta1": 1.0},
)
BOXES = TargetScores("det", {"AP50": math.nan, "mAP": 0.5}, {"another picture": {"AP50": 0.0, "mAP": 0.25}}, {})


def test_rows_name_units_and_directions() -> None:
    assert rows(report_of(DEPTH, BOXES)) == [
        ("depth", "l1 [robust standard deviations] ↓", "0.123", "1234", "2", "0.01"),
        ("depth", "abs_rel ↓", "0.5", "0.25", "1", "0.1"),
        ("depth", "delta1 ↑", "1", "0", "0", "1"),
        ("det", "AP50 ↑", "–", "–", "0", "–"),
        ("det", "mAP ↑", "0.5", "–", "0.25", "–"),
    ]


def test_markdown_is_one_line_per_row() -> None:
    lines = markdown(report_of(DEPTH)).splitlines()
    assert lines[0] == "| " + " | ".join(HEADER) + " |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: |"
    assert lines[3] == "| depth | abs_rel ↓ | 0.5 | 0.25 | 1 | 0.1 |" and len(lines) == 5


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.123456, 12.345, 999.9, 1234.56, -0.5, math.nan)] == [
        *("0.123", "12.3", "1000", "1235", "-0.5", "–"),
    ]


def test_missing_scores_are_null_in_json() -> None:
    text = json.dumps(report_of(BOXES).to_dict(), allow_nan=False)
    assert json.loads(text)["targets"][0]["model"] == {"AP50": None, "mAP": 0.5}


# -- what pages say beside pictures -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("caption", "a red ball and 0 dogs"),
        ("metadata", "n_humans 1, brightness 100"),
        ("det", "1 × dog"),
        ("human_poses", "1 person"),
        ("sam_instance", "1 instance"),
        ("rgb", "32 × 32 pixels"),
    ],
)
def test_values_are_described(name: str, text: str) -> None:
    assert get_modality(name).describe(values()[name]) == text


def test_descriptions_of_made_up_values() -> None:
    classes = np.array([[1] * 6 + [2] * 3 + [0]], np.uint8)
    assert get_modality("semseg").describe(classes) == "person 60%, bicycle 30%"
    depth = np.array([[1.0, np.nan], [2.5, 2.0]], np.float32)
    assert get_modality("depth").describe(depth) == "1.00 … 2.50 m"
    assert get_modality("depth").describe(depth, predicted=True) == "1.00 … 2.50 robust standard deviations (relative)"
    palette = np.array([[255, 0, 16], [1, 2, 3]], np.uint8)
    assert get_modality("color_palette").describe(palette) == "#ff0010 #010203"
    edges = np.array([[255, 0, 0, 127]], np.uint8)
    assert get_modality("canny_edge").describe(edges) == "25.0% of the pixels are edges"
    assert get_modality("det").describe([]) == "no boxes"
    assert get_modality("metadata").describe({}) == "no fields"
    assert get_modality("caption").describe("a\nb") == "a b" and get_modality("caption").describe("") == "no words"
    assert get_modality("human_poses").describe([]) == "no people"


@pytest.mark.parametrize("name", sorted(all_modalities()))
def test_every_description_is_one_line(name: str) -> None:
    assert get_modality(name).describe(values()[name]).count("\n") == 0
