"""Ensemble studies and cross-path checks: scores are those of the modalities, errors and spreads meet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_bundle import bundle
from tiny_data import values

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import direct_plan
from open4m.evaluation.measures import score
from open4m.generation import AnyToAny, Ensemble, sampling_plan
from open4m.modalities.merging import Merged
from open4m.steering.ensembles import _sizes, _surest_half, _uncertainty, ensemble_study
from open4m.steering.paths import path_study

SCENES = [values(seed) for seed in range(4)]


def model() -> AnyToAny:
    return AnyToAny(bundle())


def test_a_study_scores_what_generation_gives() -> None:
    study = ensemble_study(model(), SCENES, ["depth", "semseg", "dinov2_global"], count=3, seed=7, batch_size=5)
    assert [entry.target for entry in study.targets] == ["depth", "semseg", "dinov2_global"]
    plan = direct_plan(model(), ["depth"], ("rgb",))
    groups = [
        model().generate({"rgb": s["rgb"]}, plan=sampling_plan(plan), samples=3, seed=7 + 3 * i)
        for i, s in enumerate(SCENES)
    ]
    merged = [Ensemble(group)["depth"].value for group in groups]
    entry = study.targets[0]
    assert entry.merged[3] == pytest.approx(score("depth", merged, SCENES), rel=1e-5)
    singles = [score("depth", [group["depth"][k].value for group in groups], SCENES)["l1"] for k in range(3)]
    assert entry.single["l1"] == pytest.approx(np.mean(singles), rel=1e-5) and set(entry.merged) == {2, 3}
    guess = [model().generate({"rgb": s["rgb"]}, plan=plan)["depth"].value for s in SCENES]  # draws do not count
    assert entry.best_guess == pytest.approx(score("depth", guess, SCENES), rel=1e-5)
    record = json.loads(json.dumps(study.to_dict()))
    assert record["targets"][2]["uncertainty"]["pixels"] is None and record["samples"] == 3
    assert len(study.items["depth"]) == 4 and study.items["depth"][1][0] is SCENES[1]


def test_spread_that_shows_the_error_is_recognised() -> None:
    generator = np.random.default_rng(0)
    scenes = [{"canny_edge": np.zeros((16, 16), np.uint8)} for _ in range(6)]
    wrong = [(generator.random((16, 16)) * 40 * (k + 1)).astype(np.uint8) for k in range(6)]
    honest = [Merged(w, w.astype(np.float32) ** 2, "") for w in wrong]
    known = _uncertainty("canny_edge", honest, scenes)
    assert known.pixels == pytest.approx(1) and known.pictures == pytest.approx(1) and known.surest_half < 0.6
    liar = [Merged(w, -w.astype(np.float32), "") for w in wrong]
    known = _uncertainty("canny_edge", liar, scenes)
    assert known.pixels == pytest.approx(-1) and known.pictures == pytest.approx(-1) and known.surest_half > 1.4


def test_the_surest_half_counts_ties_evenly() -> None:
    assert _surest_half(np.zeros(4), np.array([1.0, 2, 3, 4])) == pytest.approx(1)
    assert _surest_half(np.array([0, 1, 2, 3]), np.array([0.0, 0, 1, 1])) == 0
    assert _surest_half(np.array([0, 1, 1]), np.array([0.0, 3, 3])) == pytest.approx((0.5 * 3) / 1.5 / 2)
    assert np.isnan(_surest_half(np.zeros(2), np.array([np.nan, np.nan])))
    assert _sizes(8) == [2, 4, 8] and _sizes(2) == [2] and _sizes(5) == [2, 4, 5]


def test_studies_need_samples_and_scenes() -> None:
    with pytest.raises(GenerationError, match="ensemble of 1"):
        ensemble_study(model(), SCENES, ["depth"], count=1)
    with pytest.raises(GenerationError, match="1 scenes hold rgb and depth"):
        ensemble_study(model(), SCENES[:1], ["depth"])
    with pytest.raises(GenerationError, match="0 scenes hold rgb and depth"):
        path_study(model(), [{"rgb": s["rgb"]} for s in SCENES])


def test_paths_lead_to_the_same_target() -> None:
    study = path_study(model(), SCENES, "depth", ("normal", "semseg"), seed=3)
    assert [p.path for p in study.paths] == ["straight", "normal", "rgb+normal", "semseg", "rgb+semseg"]
    plan = direct_plan(model(), ["depth"], ("rgb",))
    straight = [model().generate({"rgb": s["rgb"]}, plan=plan, seed=3 + i)["depth"].value for i, s in enumerate(SCENES)]
    assert study.paths[0].scores == pytest.approx(score("depth", straight, SCENES), rel=1e-5)
    assert study.paths[0].disagreement == 0 and all(p.disagreement > 0 for p in study.paths[1:])
    assert all(-1 <= p.pixels <= 1 and -1 <= p.pictures <= 1 for p in study.paths[1:])
    record = json.loads(json.dumps(study.to_dict()))
    assert record["paths"][0]["pixels"] is None and record["count"] == 4 and set(record["merged"]) == set(study.merged)
