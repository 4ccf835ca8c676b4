"""Pictures of any shape between bars: nothing is cut off on the way in, and the bars are cut off on the way out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundle import SIZE, bundle, depth_map, picture
from tiny_data import values

from open4m.errors import GenerationError
from open4m.generation import AnyToAny, Result
from open4m.modalities.registry import get_modality
from open4m.modalities.view import Fit

TARGETS = ["depth", "normal", "semseg", "canny_edge", "clip"]


def model() -> AnyToAny:
    return AnyToAny(bundle())


def wide(seed: int = 0) -> np.ndarray:
    return picture(seed, 40, 80)


def everything(rgb: np.ndarray) -> Result:
    return model().generate({"rgb": rgb}, TARGETS, fit="letterbox")


def test_results_have_the_shape_of_the_picture() -> None:
    out = everything(wide())
    for name in TARGETS[:4]:
        assert out[name].value.shape[:2] == (16, 32)
        assert out[name].square.shape[:2] == (32, 32)
        np.testing.assert_allclose(out[name].value, out[name].square[8:24], atol=1e-6)
        get_modality(name).validate(out[name].value, name)
    assert out["clip"].value.shape[1:] == (2, 4)
    assert out["depth"].image.size == (224, 112) and out["depth"].draw(100).size == (100, 50)
    tall = everything(picture(0, 64, 40))
    assert tall["depth"].value.shape == (32, 20) and tall["depth"].image.size == (140, 224)


def test_a_square_picture_is_the_same_either_way() -> None:
    square = picture(0, 40, 40)
    between, cropped = everything(square), model().generate({"rgb": square}, TARGETS)
    for name in TARGETS:
        np.testing.assert_allclose(between[name].value, cropped[name].value, atol=1e-6)


def test_the_crop_does_not_see_the_sides_and_the_letterbox_does() -> None:
    other = wide()
    other[:, :15] = 255 - other[:, :15]  # outside of the centre square
    fits: list[tuple[Fit, bool]] = [("crop", True), ("letterbox", False)]
    for fit, equal in fits:
        first, second = (model().generate({"rgb": rgb}, ["depth"], fit=fit)["depth"].value for rgb in (wide(), other))
        assert np.array_equal(first, second) == equal


def test_bars_are_hidden_from_the_model() -> None:
    given = model()._reader.read({"rgb": wide(), "depth": depth_map(0, 20, 40)}, fit="letterbox")
    for name in (f"rgb@{SIZE}", f"tok_depth@{SIZE}"):
        known = given.canvas.tracks[name].known.view(4, 4)
        assert torch.equal(known, torch.tensor([[False] * 4, [True] * 4, [True] * 4, [False] * 4]))
    crop = model()._reader.read({"rgb": wide()})
    assert bool(crop.canvas.tracks[f"rgb@{SIZE}"].known.all())


def test_overlays_and_lists_refer_to_the_picture() -> None:
    """Boxes given relative to the picture lie in the square's middle, and come back where they were."""
    seen = model().view({"rgb": wide(), "det": values()["det"]}, "letterbox")
    (box,), (moved,) = values()["det"], seen["det"]
    assert (moved.xmin, moved.xmax) == pytest.approx((box.xmin, box.xmax))
    assert (moved.ymin, moved.ymax) == pytest.approx((0.25 + box.ymin / 2, 0.25 + box.ymax / 2))
    assert not seen["rgb"][:6].any() and seen["rgb"][8:24].all(axis=-1).mean() > 0.9  # resizing blurs the border
    out = model().generate({"rgb": wide()}, ["det", "human_poses", "sam_instance"], fit="letterbox")
    assert all(out[name].image.size == (224, 112) for name in out)


def test_batches_of_different_shapes(tmp_path: Path) -> None:
    out = model().generate({"rgb": [wide(), picture(1, 64, 40)]}, ["depth"], fit="letterbox")
    assert [item.value.shape for item in out["depth"]] == [(16, 32), (32, 20)]
    out.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["fit"] == "letterbox"
    assert get_modality("depth").read(tmp_path / "out" / "0001" / "depth.png").shape == (32, 20)


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(GenerationError, match="'stretch'; known are crop, letterbox"):
        model().generate({"rgb": wide()}, ["depth"], fit="stretch")  # type: ignore[arg-type]
