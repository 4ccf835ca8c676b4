"""The search for chains: only runnable plans, the best is kept, it can be taken up again, other scenes judge."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_bundle import bundle
from tiny_data import values

from open4m.errors import GenerationError
from open4m.generation import AnyToAny, Plan
from open4m.steering import chains
from open4m.steering.chains import Search, Trial, compare, intermediates

SCENES = [values(seed) for seed in range(8)]
HOUR = 3600.0


def model() -> AnyToAny:
    return AnyToAny(bundle())


def search(target: str = "depth", **options: Any) -> Search:
    return Search(model(), target, SCENES, **options)


def test_every_plan_that_is_tried_runs_and_the_best_is_kept() -> None:
    found, told = search(seed=1), []
    found.run(HOUR, 14, told.append)
    assert found.trials == told and len(told) == 14
    assert told[0].change == "default"  # which, from a picture, is the best guess in one step
    whole = [t for t in told if t.scenes == len(SCENES)]
    assert found.best.score == min(t.score for t in whole) and len(whole) < len(told)  # of abs_rel, less is better
    for trial in told:
        if trial.scenes < len(SCENES):
            assert trial.scenes == 2 and trial.first == trial.score
    keys = [json.dumps(t.plan.to_dict()) for t in told]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("target", ["depth", "semseg", "caption", "rgb"])
def test_changes_give_valid_plans(target: str) -> None:
    given = ("caption",) if target == "rgb" else ("rgb",)
    plan, generator = model().plan([target], given), np.random.default_rng(0)
    candidates = intermediates(model(), target, given)
    assert target not in candidates and not set(given) & set(candidates) and "canny_edge" in candidates
    kinds = set()
    for _ in range(120):
        plan, change = chains._change(model(), plan, candidates, generator)
        kinds.add(change.split()[-2] if "without" not in change else "without")
        assert plan.requested == (target,) and Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
        assert plan.chained == (len(plan.targets) > 1) and plan.targets[-1].modality == target
        known = list(plan.inputs)
        for t in plan.targets:
            assert set(t.conditions) <= set(known) and 1 <= t.steps <= t.tokens
            known.append(t.stream)
    assert {"temperature", "guidance", "steps", "without"} <= kinds
    result = model().generate({name: SCENES[0][name] for name in given}, plan=plan)
    assert list(result) == [target]


def test_a_search_can_be_taken_up_again() -> None:
    whole, half = search(seed=2), search(seed=2)
    whole.run(HOUR, 6)
    half.run(HOUR, 4)
    stored = json.loads(json.dumps({"settings": half.settings(), "trials": [t.to_dict() for t in half.trials]}))
    again = search(seed=2)
    again.resume(stored)
    again.run(HOUR, 6)
    assert [t.plan for t in again.trials] == [t.plan for t in whole.trials]
    assert [t.score for t in again.trials] == [t.score for t in whole.trials]
    with pytest.raises(GenerationError, match=r"made with .*Use the same settings, or another folder"):
        search(seed=3).resume(stored)
    other = Search(model(), "depth", [{**scene, "depth": scene["depth"] ** 2} for scene in SCENES], seed=2)
    with pytest.raises(GenerationError, match="the model or the scenes have changed"):
        other.resume(stored)
    with pytest.raises(GenerationError, match="not a trial"):
        search(seed=2).resume({**stored, "trials": [{"score": 1}]})
    with pytest.raises(GenerationError, match="another folder"):
        search().resume([])  # type: ignore[arg-type]


def test_no_time_means_the_two_plans_that_are_always_tried() -> None:
    found = search("depth", given=("semseg",))
    found.run(0)
    assert [t.change for t in found.trials] == ["default", "best guess in one step"]
    with pytest.raises(GenerationError, match=r"caption cannot be an intermediate.*Possible: .*normal"):
        search(candidates=["caption"])
    with pytest.raises(GenerationError, match="1 scenes hold rgb and depth"):
        Search(model(), "depth", SCENES[:1])


def test_the_better_plan_is_found_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a made-up score that is best with normals on the way and four steps."""

    def pretended(_: AnyToAny, samples: Any, plan: Plan, *__: Any) -> list[float]:
        through = "normal" in [t.modality for t in plan.targets]
        return [10 - 5 * through + abs(np.log2(plan["depth"].steps) - 2) + len(plan.targets)] * len(samples)

    monkeypatch.setattr(chains, "predictions_of", pretended)
    monkeypatch.setattr(chains, "_primary", lambda _, predictions, __: float(np.mean(predictions)))
    found = search()
    found.run(HOUR, 150)
    assert [t.modality for t in found.best.plan.targets] == ["normal", "depth"] and found.best.plan["depth"].steps == 4


def test_the_comparison_knows_which_plan_is_better() -> None:
    plan = model().plan(["depth"], ["rgb"])
    same = compare(model(), "depth", SCENES, plan, plan)
    assert same.wins == 0.5 and same.before == same.after and same.count == 8
    hot = replace(plan, targets=(replace(plan["depth"], decode="tokens", temperature=2.5),))
    there, back = compare(model(), "depth", SCENES, plan, hot), compare(model(), "depth", SCENES, hot, plan)
    assert there.wins == pytest.approx(1 - back.wins) and there.after == back.before
    assert (there.after["abs_rel"] < there.before["abs_rel"]) == (there.wins > 0.5)
    assert json.loads(json.dumps(there.to_dict()))["count"] == 8


def test_trials_survive_json() -> None:
    trial = Trial(model().plan(["depth"], ["rgb"]), "x", float("nan"), 0.5, 4, 1.25)
    back = Trial.from_dict(json.loads(json.dumps(trial.to_dict())))
    assert np.isnan(back.score) and replace(back, score=0.0) == replace(trial, score=0.0)
