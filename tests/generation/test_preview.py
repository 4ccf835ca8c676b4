"""Plans from configurations alone: the same plan, and what it would need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_bundle import bundle

from open4m.errors import CheckpointError, GenerationError, UnknownNameError
from open4m.generation import AnyToAny, Plan, preview
from open4m.hub import describe, load_bundle, save_bundle
from open4m.hub.needs import needs_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save_bundle(bundle(), path, torch.float32)
    return path


def test_it_is_the_plan_of_the_loaded_model(folder: Path) -> None:
    for targets, given in ((["depth", "caption"], ["rgb"]), (["rgb"], ["caption"]), (["human_poses"], ["depth"])):
        plan = preview(folder, targets, given)
        assert replace(plan, needs=()) == AnyToAny(bundle()).plan(targets, given)
        assert Plan.from_dict(plan.to_dict()) == plan and all(line in str(plan) for line in plan.licences)
    everything = preview(folder, given=["rgb"])
    assert set(everything.requested) == set(AnyToAny(bundle()).targets) - {"rgb"}


def test_needs_are_counted(folder: Path) -> None:
    known = describe(folder)
    model = sum(p.numel() for p in bundle().model.parameters())
    depth = sum(v.numel() for v in bundle().tokenizers["depth"].state_dict().values() if v.is_floating_point())
    wide = needs_of(known, ["rgb@32", "tok_depth@32", "caption"])
    assert [item.name for item in wide.items] == ["tiny", "depth"] and wide.download == 0
    assert wide.items[0].memory == 4 * model and abs(wide.items[1].memory - 4 * depth) <= 8  # and one flag
    narrow = needs_of(known, ["rgb@32", "tok_depth@32"], torch.bfloat16)
    assert narrow.items[0].memory == 2 * model
    eight = needs_of(known, ["rgb@32", "tok_depth@32"], torch.int8)
    held = load_bundle(folder, torch.int8).model.state_dict().values()
    assert eight.items[0].memory == sum(v.nbytes for v in held) < 2 * model
    assert eight.items[1].memory == narrow.items[1].memory
    assert "to download: nothing" in preview(folder, ["depth"], ["rgb"]).needs


def test_missing_tokenizers_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizers" / "edge").rename(tmp_path / "edge")
    try:
        with pytest.raises(CheckpointError, match="no tokenizer 'edge'"):
            preview(folder, ["canny_edge"], ["rgb"])
        assert preview(folder, ["depth"], ["rgb"]).needs
    finally:
        (tmp_path / "edge").rename(folder / "tokenizers" / "edge")


def test_impossible_requests_are_refused_as_ever() -> None:
    with pytest.raises(UnknownNameError, match="4M-21_XL"):
        preview("4M-21_XXL", ["depth"], ["rgb"])
    with pytest.raises(GenerationError, match="cannot predict"):
        preview("4M-21_B", ["t5_caption"], ["rgb"])
    with pytest.raises(GenerationError, match="cannot predict"):
        preview("4M-7-SR_L_CC12M", ["caption"], ["rgb"])
