"""Samples merged into one answer: what an ensemble holds, saves, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import SIZE, bundle, picture

from open4m.errors import GenerationError, UnknownNameError
from open4m.files import filled_folder
from open4m.generation import AnyToAny, Ensemble, Plan, sampling_plan

TARGETS = ["depth", "normal", "semseg", "clip", "dinov2_global", "color_palette"]


def model() -> AnyToAny:
    return AnyToAny(bundle())


def plan(*targets: str) -> Plan:
    return sampling_plan(model().plan(targets or TARGETS, ["rgb"]))


def test_an_ensemble_merges_its_samples_and_maps_where_they_differ(tmp_path: Path) -> None:
    result = model().generate({"rgb": picture()}, plan=plan(), samples=4, seed=3)
    ensemble = Ensemble(result)
    assert set(ensemble) == set(TARGETS) and len(ensemble["depth"].items) == 4
    for name, item in ensemble.items():
        expected = item.modality.merge([sample[name].value for sample in result.samples])
        np.testing.assert_array_equal(item.value, expected.value)
        np.testing.assert_array_equal(item.spread, expected.spread)
        assert item.unit == expected.unit and item.unit in item.describe()
        assert item.merged.uncertainty > 0, name
        assert (item.draw_spread(64) is None) == (item.spread.ndim != 2)
    assert ensemble["depth"].spread.shape == (SIZE, SIZE) and ensemble["clip"].spread.shape == (4, 4)
    again = Ensemble(model().generate({"rgb": picture()}, plan=plan(), samples=4, seed=3))
    np.testing.assert_array_equal(again["depth"].value, ensemble["depth"].value)
    with pytest.raises(UnknownNameError, match="depth"):
        ensemble["dept"]

    ensemble.save(tmp_path / "out")
    spread = np.load(tmp_path / "out" / "depth.spread.npy", allow_pickle=False)
    np.testing.assert_array_equal(spread, ensemble["depth"].spread)
    with Image.open(tmp_path / "out" / "depth.spread.png") as drawn:
        assert drawn.size == (224, 224)
    record = json.loads((tmp_path / "out" / "ensemble.json").read_text())
    assert record["samples"] == 4 and record["seeds"] == [3, 4, 5, 6]
    assert record["uncertainty"]["normal"]["unit"] == "°" and record["uncertainty"]["normal"]["mean"] > 0
    assert Plan.from_dict(record["plan"]) == result.plan
    assert not (tmp_path / "out" / "dinov2_global.spread.png").exists()
    samples = model().repeat(tmp_path / "out" / "samples")
    np.testing.assert_array_equal([s.value for s in samples["depth"]], [s.value for s in result["depth"]])


def test_only_the_picture_is_left_of_a_letterbox() -> None:
    result = model().generate({"rgb": picture(20, 40)}, plan=plan("depth", "clip"), samples=2, fit="letterbox")
    ensemble = Ensemble(result)
    assert ensemble["depth"].value.shape == ensemble["depth"].spread.shape == result["depth"][0].value.shape
    assert ensemble["depth"].value.shape[0] < SIZE
    assert ensemble["depth"].image.size[0] > ensemble["depth"].image.size[1]


def test_a_sampling_plan_draws_what_was_a_best_guess() -> None:
    before = model().plan(["depth", "caption"], ["rgb"])
    after = sampling_plan(before)
    assert before["depth"].decode == "expected" and after["depth"].decode == "tokens"
    assert after["depth"].temperature == after["caption"].temperature == 1
    assert sampling_plan(before.edit("depth", temperature=3.0, decode="tokens"))["depth"].temperature == 3
    assert after["depth"].steps == before["depth"].steps and after["depth"].guidance == before["depth"].guidance


def test_what_is_no_ensemble_is_refused() -> None:
    two = {"rgb": [picture(0), picture(1)]}
    with pytest.raises(GenerationError, match="at least two samples"):
        Ensemble(model().generate({"rgb": picture()}, plan=plan("semseg")))
    with pytest.raises(GenerationError, match="differ in rgb@32"):
        Ensemble(model().generate(two, plan=plan("semseg")))
    with pytest.raises(GenerationError, match=r"All samples of depth are alike.*sampling_plan"):
        Ensemble(model().generate({"rgb": picture()}, ["depth", "semseg"], samples=2))


def test_a_folder_is_filled_wholly_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), filled_folder(tmp_path / "a") as folder:
        (folder / "half.txt").write_text("x")
        raise RuntimeError
    with filled_folder(tmp_path / "a") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "whole.txt").write_text("x")
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["a/deep/whole.txt"] and not [p for p in tmp_path.iterdir() if p.name != "a"]


def test_a_seal_never_lies_beside_what_it_does_not_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(text: str) -> None:
        with filled_folder(tmp_path / "a", "seal") as folder:
            for name in ("b", "seal", "t"):
                (folder / name).write_text(text)

    def found() -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / "a").iterdir()}

    moved, move = [], Path.replace

    def move_one_and_stop(self: Path, target: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(self.name)
        move(self, target)

    fill("old")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", move_one_and_stop)
        fill("new")
    assert found() == {"b": "new", "t": "old"}
    fill("new")
    assert found() == {"b": "new", "seal": "new", "t": "new"}
    with pytest.raises(FileNotFoundError, match="seal was not written"), filled_folder(tmp_path / "c", "seal"):
        pass
