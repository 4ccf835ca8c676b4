"""Scores beside constants and bounds: the whole way with the tiny system, tables, the matrix."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import SIZE, bundle
from tiny_data import SPLIT, values, write_data

from open4m.errors import DataError, GenerationError
from open4m.evaluation import Matrix, Report, TargetScores, any_to_any, evaluate, read_values
from open4m.evaluation.baselines import constants
from open4m.evaluation.evaluate import direct_plan
from open4m.evaluation.matrix import share
from open4m.evaluation.measures import metrics, score
from open4m.evaluation.tables import header, markdown, matrix_rows, number, rows, share_rows
from open4m.generation import AnyToAny
from open4m.modalities.registry import all_modalities, get_modality


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
Outcome = tuple[Report, dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return AnyToAny(bundle())


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    """Five samples; the last one has no depth."""
    found = [values(i) for i in range(5)]
    del found[4]["depth"]
    return found


@pytest.fixture(scope="module")
def outcome(model: AnyToAny, samples: list[dict[str, Any]]) -> Outcome:
    requests = [("rgb",), ("caption", "depth")]
    return evaluate(model, samples, requests, TARGETS, data="here", seed=7, batch_size=2)


def entry_of(report: Report, target: str) -> TargetScores:
    return next(entry for entry in report.targets if entry.target == target)


def test_report_holds_every_target_and_column(outcome: Outcome) -> None:
    report, predictions = outcome
    assert (report.model, report.data, report.samples, report.seed) == ("tiny", "here", 5, 7)
    assert tuple(entry.target for entry in report.targets) == TARGETS
    assert [entry.count for entry in report.targets] == [4, 5, 5, 5]
    for entry in report.targets:
        assert set(entry.constant) == set(entry.bound) == set(entry.model["rgb"]) == set(metrics(entry.target))
    assert entry_of(report, "depth").model["caption+depth"] == {}  # it was given
    assert [set(TARGETS) - set(p) for p in predictions["rgb"]] == [set()] * 4 + [{"depth"}]
    assert predictions["caption+depth"][4] == {}  # it has no depth to give


def test_json_has_the_documented_form(outcome: Outcome) -> None:
    text = json.dumps(outcome[0].to_dict(), allow_nan=False)
    entries = json.loads(text)["targets"]
    keys = {"target", "metric", "higher_is_better", "constant", "bound", "rgb", "caption", "count", "caption+depth"}
    assert all(set(entry) == keys for entry in entries)
    first = {entry["target"]: entry for entry in reversed(entries)}
    assert [first[t]["metric"] for t in TARGETS] == ["abs_rel", "mean_angle", "miou", "delta_E"]
    assert [first[t]["higher_is_better"] for t in TARGETS] == [False, False, True, False]
    assert all(entry["caption"] is None for entry in entries)  # was never given alone
    for target in TARGETS:
        assert all(isinstance(first[target][key], float) for key in ("constant", "bound", "rgb"))
    assert first["depth"]["count"] == 4 and first["depth"]["caption+depth"] is None


def test_predictions_do_not_depend_on_the_batches(model: AnyToAny, outcome: Outcome) -> None:
    plan = direct_plan(model, TARGETS, ("rgb",))
    alone = model.generate({"rgb": values(3)["rgb"]}, TARGETS, seed=7 + 3, plan=plan)
    assert np.array_equal(alone["semseg"].value, outcome[1]["rgb"][3]["semseg"])


def test_scores_are_those_of_the_predictions(outcome: Outcome, samples: list[dict[str, Any]]) -> None:
    report, predictions = outcome
    made = [p["semseg"] for p in predictions["rgb"]]
    assert entry_of(report, "semseg").model["rgb"] == score("semseg", made, samples)


def test_the_constant_is_the_best_candidate_metric_by_metric(outcome: Outcome, samples: list[dict[str, Any]]) -> None:
    truths = [sample["normal"] for sample in samples]
    candidates = [score("normal", guess, samples) for guess in constants("normal", truths).values()]
    best = entry_of(outcome[0], "normal").constant
    assert best["mean_angle"] == min(c["mean_angle"] for c in candidates)
    assert best["within_11.25"] == max(c["within_11.25"] for c in candidates)


def test_the_bound_is_the_truth_after_its_own_tokens(model: AnyToAny, outcome: Outcome) -> None:
    truths = [values(i)["depth"] for i in range(4)]
    ids = model.tokenize({"depth": truths})[f"tok_depth@{SIZE}"]
    spec = model.bundle.model.config.stream(f"tok_depth@{SIZE}")
    through = [model.codecs.value(spec, row) for row in ids]
    assert entry_of(outcome[0], "depth").bound == get_modality("depth").score(through, truths)
    assert entry_of(outcome[0], "color_palette").bound == {"delta_E": 0.0, "within_3_bins": 1.0}  # words say it exactly


def test_values_survive_their_tokens(model: AnyToAny) -> None:
    assert model.reconstruct("caption", ["Two dogs", "a  red ball"]) == ["two dogs", "a red ball"]
    (box,) = model.reconstruct("det", [values()["det"]])[0]
    assert box.class_name == "dog" and np.allclose(box.corners, values()["det"][0].corners, atol=0.5 / 999)
    assert len(model.reconstruct("human_poses", [values()["human_poses"]])[0]) == 1
    assert model.reconstruct("semseg", [values()["semseg"]])[0].shape == (SIZE, SIZE)


def test_targets_come_straight_from_what_is_given(model: AnyToAny) -> None:
    plan = direct_plan(model, ["rgb", "semseg", "caption"], ("depth",))
    assert not plan.chained and plan.inputs == (f"tok_depth@{SIZE}",)
    assert [t.modality for t in plan.targets] == ["semseg", "rgb", "caption"]  # no stepping stone
    assert all(t.steps == 1 for t in plan.targets)
    assert plan["rgb"].decode == "expected" and plan["semseg"].decode == "tokens"
    assert model.plan(["rgb"], ["depth"])["rgb"].steps > 1


def test_default_targets_are_what_the_samples_hold(model: AnyToAny) -> None:
    few = [{n: values(i)[n] for n in ("rgb", "caption", "canny_edge", "sam_edge")} for i in range(2)]
    told: list[tuple[str, int, int]] = []
    report, _ = evaluate(model, few, [("rgb", "caption")], batch_size=1, progress=lambda *step: told.append(step))
    assert [entry.target for entry in report.targets] == ["canny_edge", "sam_edge"]
    assert told == [("from rgb+caption", 1, 2), ("from rgb+caption", 2, 2), ("scores", 1, 2), ("scores", 2, 2)]


def test_bad_requests_are_refused(model: AnyToAny) -> None:
    two = [values(0), values(1)]
    with pytest.raises(GenerationError, match="at least two"):
        evaluate(model, two[:1], [("rgb",)], ["depth"])
    with pytest.raises(GenerationError, match="batch_size is 0"):
        evaluate(model, two, [("rgb",)], ["depth"], batch_size=0)
    with pytest.raises(GenerationError, match="Nothing to score"):
        evaluate(model, two, [("rgb",)], ["rgb"])


# -- the matrix -------------------------------------------------------------------------------------------------------
def test_every_modality_alone_into_every_target(
    model: AnyToAny, samples: list[dict[str, Any]], outcome: Outcome
) -> None:
    report = replace(outcome[0], targets=outcome[0].targets[:3])
    only = [{n: s[n] for n in ("rgb", "depth", "normal", "semseg", "det") if n in s} for s in samples]
    matrix = any_to_any(model, only, report, count=3)
    assert set(matrix.given) == {"depth", "normal", "semseg", "rgb", "det"} and matrix.targets == TARGETS[:3]
    assert matrix.metric == {"depth": "abs_rel", "normal": "mean_angle", "semseg": "miou"} and matrix.count == 3
    for given, line in zip(matrix.given, matrix.values, strict=True):
        assert [math.isnan(v) for v in line] == [given == target for target in matrix.targets]
    det = matrix.values[matrix.given.index("det")]
    again = evaluate(model, only[:3], [("det",)], TARGETS[:3], seed=7)[0]
    assert det == tuple(next(iter(entry.model["det"].values())) for entry in again.targets)
    stored = json.loads(json.dumps(matrix.to_dict(), allow_nan=False))
    assert set(stored) == {"given", "targets", "metric", "values", "shares", "count"}
    assert stored["values"][matrix.given.index("det")] == list(det)
    assert stored["values"][matrix.given.index("depth")][0] is None
    with pytest.raises(GenerationError, match="0 samples hold all targets"):
        any_to_any(model, [{"rgb": s["rgb"]} for s in samples], report)


def test_shares_are_the_way_from_the_constant_to_the_bound() -> None:
    assert share(0.5, 0.5, 0.9) == 0 and share(0.9, 0.5, 0.9) == 1
    assert share(20, 30, 10) == 0.5  # lower is better
    assert share(0.3, 0.5, 0.9) == pytest.approx(-0.5)  # worse than the constant
    assert all(math.isnan(v) for v in (share(1, 2, 2), share(math.nan, 0, 1), share(1, math.nan, 1)))


# -- tables -----------------------------------------------------------------------------------------------------------
def report_of(*targets: TargetScores) -> Report:
    return Report("m", "d", (("rgb",), ("depth", "caption")), 2, 0, targets)


DEPTH = TargetScores(
    "depth",
    300,
    {"l1": 1234.5, "abs_rel": 0.25, "delta1": 0},
    {"l1": 0.01, "abs_rel": 0.1, "delta1": 1.0},
    {"rgb": {"l1": 0.12345, "abs_rel": 0.5, "delta1": 1.0}, "depth+caption": {}},
)
BOXES = TargetScores("det", 72, {"AP50": 0.0, "mAP": 0.25}, {}, {"rgb": {"AP50": math.nan, "mAP": 0.5}})


def test_rows_name_units_and_directions() -> None:
    titles = ("target", "score", "constant", "from rgb", "from depth+caption", "bound", "count")
    assert header(report_of()) == titles
    assert rows(report_of(DEPTH, BOXES)) == [
        ("depth", "abs_rel ↓", "0.25", "0.5", "–", "0.1", "300"),
        ("depth", "l1 [robust standard deviations] ↓", "1234", "0.123", "–", "0.01", "300"),
        ("depth", "delta1 ↑", "0", "1", "–", "1", "300"),
        ("det", "AP50 ↑", "0", "–", "–", "–", "72"),
        ("det", "mAP ↑", "0.25", "0.5", "–", "–", "72"),
    ]


def test_details_are_a_table_of_their_own() -> None:
    scores = {"within_3_bins": 0.5, "exact": 0.25, "error": 0.5, "within_3_bins/brightness": 0.75}
    report = report_of(TargetScores("metadata", 2, scores, scores, {"rgb": scores}))
    assert [row[1] for row in rows(report)] == ["within_3_bins ↑", "exact ↑", "error ↓"]
    table = {row[1]: row[2:4] for row in rows(report, details=True)}
    assert len(table) == 21 and table["within_3_bins/brightness ↑"] == ("0.75", "0.75")


def test_markdown_is_one_line_per_row() -> None:
    lines = markdown(report_of(DEPTH)).splitlines()
    assert lines[0] == "| " + " | ".join(header(report_of())) + " |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| depth | abs_rel ↓ | 0.25 | 0.5 | – | 0.1 | 300 |" and len(lines) == 5


def test_matrices_are_tables() -> None:
    shares = ((0.256, math.nan),)
    matrix = Matrix(("rgb",), ("depth", "det"), {"depth": "abs_rel", "det": "AP50"}, ((0.1234, math.nan),), shares, 2)
    assert matrix_rows(matrix) == (("given", "depth abs_rel", "det AP50"), [("rgb", "0.123", "–")])
    assert share_rows(matrix) == (("given", "depth", "det"), [("rgb", "26", "–")])


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.123456, 12.345, 999.9, 1234.56, -0.5, math.nan)] == [
        *("0.123", "12.3", "1000", "1235", "-0.5", "–"),
    ]


def test_missing_scores_are_null_in_json() -> None:
    entry = json.loads(json.dumps(report_of(BOXES).to_dict(), allow_nan=False))["targets"][0]
    assert entry["rgb"] is None and entry["bound"] is None and entry["constant"] == 0 and entry["count"] == 72


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
