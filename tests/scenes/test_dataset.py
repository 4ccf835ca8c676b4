"""Rendered data sets and asset folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from open4m.data.shards import ShardDataset
from open4m.errors import DataError
from open4m.modalities.registry import get_modality
from open4m.scenes import dataset as dataset_room
from open4m.scenes import load_assets, render_dataset, render_view, sample_scene
from open4m.scenes.dataset import FOLDERS


def contents(root: Path, split: str = "train") -> dict[str, bytes]:
    """Every shard of a data set by its relative path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / split).glob("*/*.tar"))}


def test_workers_do_not_change_the_data_and_the_layout_is_readable(tmp_path: Path) -> None:
    render_dataset(tmp_path / "one", 5, seed=3, size=32, workers=1, shard_size=2)
    render_dataset(tmp_path / "two", 5, seed=3, size=32, workers=2, shard_size=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert len(one) == 3 * len(FOLDERS) and one == two
    samples = ShardDataset(tmp_path / "one", "train", FOLDERS)
    assert len(samples) == 5
    sample = samples[4]
    assert sample.key == "00000004" and set(sample.files) == set(FOLDERS)
    for name, (extension, data) in sample.files.items():
        modality = get_modality(name)
        assert extension in modality.extensions
        modality.decode(data, name)
    assert isinstance(json.loads(sample.files["caption"][1]), list)
    palettes = json.loads(sample.files["color_palette"][1])[0]
    assert [len(palettes[str(k)]) for k in range(1, 8)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_killed_run_leaves_no_half_shard_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render_dataset(tmp_path / "whole", 6, size=32, workers=1, shard_size=2)
    calls = 0

    def breaks(*args: object) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return render_view(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset_room, "render_view", breaks)
    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / "part", 6, size=32, workers=1, shard_size=2)
    partial = contents(tmp_path / "part")
    assert len(partial) == len(FOLDERS)
    monkeypatch.setattr(dataset_room, "render_view", render_view)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "part").glob("train/*/*.tar")}
    render_dataset(tmp_path / "part", 6, size=32, workers=1, shard_size=2)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())


def interrupted(*_: object) -> dict[str, object]:
    raise KeyboardInterrupt


def test_a_larger_count_adds_views_and_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_dataset(tmp_path / "grown", 3, size=32, workers=1, shard_size=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset_room, "render_view", interrupted)
        render_dataset(tmp_path / "grown", 5, size=32, workers=1, shard_size=2)
    render_dataset(tmp_path / "grown", 5, size=32, workers=1, shard_size=2)
    render_dataset(tmp_path / "whole", 5, size=32, workers=1, shard_size=2)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    with pytest.raises(DataError, match="seed = 0 instead of 1"):
        render_dataset(tmp_path / "grown", 5, seed=1, size=32, workers=1, shard_size=2)
    with pytest.raises(DataError, match="already holds 5"):
        render_dataset(tmp_path / "grown", 2, size=32, workers=1, shard_size=2)
    with pytest.raises(DataError, match="count >= 1"):
        render_dataset(tmp_path / "none", 0)


def test_a_share_of_the_views_is_graded_and_only_what_depends_on_colours_changes(tmp_path: Path) -> None:
    for share in (0.0, 0.5, 1.0):
        render_dataset(tmp_path / str(share), 6, size=32, workers=1, shard_size=6, graded=share)
    plain, half, all_graded = (ShardDataset(tmp_path / str(share), "train", FOLDERS) for share in (0.0, 0.5, 1.0))
    changed = [plain[i].files["rgb"] != half[i].files["rgb"] for i in range(6)]
    assert any(changed) and not all(changed)
    for i in range(6):
        assert plain[i].files["rgb"] != all_graded[i].files["rgb"]
        assert half[i].files == (all_graded if changed[i] else plain)[i].files
        for name in ("depth", "normal", "semseg", "sam_edge", "caption", "det", "human_poses", "sam_instance"):
            assert plain[i].files[name] == all_graded[i].files[name]
        before, after = (json.loads(s[i].files["metadata"][1]) for s in (plain, all_graded))
        assert before["brightness"] != after["brightness"] and before["n_humans"] == after["n_humans"]
    with pytest.raises(DataError, match=r"graded = 0\.0 instead of 0\.5"):
        render_dataset(tmp_path / "0.0", 6, size=32, workers=1, shard_size=6, graded=0.5)
    record = tmp_path / "0.0" / "train" / "scenes.json"
    older = {key: value for key, value in json.loads(record.read_text()).items() if key != "graded"}
    record.write_text(json.dumps(older))  # as written before there were graded views: nothing is graded
    render_dataset(tmp_path / "0.0", 6, size=32, workers=1, shard_size=6)
    with pytest.raises(DataError, match="share of graded views"):
        render_dataset(tmp_path / "2", 6, graded=2.0)


def test_splits_share_no_views(tmp_path: Path) -> None:
    for split in ("train", "val"):
        render_dataset(tmp_path, 1, size=32, workers=1, split=split)
    train, val = (ShardDataset(tmp_path, s, ("rgb",))[0].files["rgb"][1] for s in ("train", "val"))
    assert train != val


def test_workers_import_no_torch() -> None:
    code = "import sys, open4m.scenes.dataset as d; d.get_modality('rgb'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_assets_join_the_scenes(tmp_path: Path) -> None:
    trimesh.creation.cone(radius=1, height=4).export(tmp_path / "cone.obj")
    table = {"cone.obj": {"class": "kite", "height": 0.8, "up": "z", "colour": "red"}}
    (tmp_path / "classes.json").write_text(json.dumps(table))
    models = load_assets(tmp_path)
    assert [m.class_name for m in models] == ["kite"]
    low, high = models[0].bounds
    assert np.allclose([low[2], high[2]], [0, 0.8]) and abs(low[0] + high[0]) < 1e-6
    scenes = [sample_scene(seed, models) for seed in range(10)]
    assert any(t.model.class_name == "kite" for scene in scenes for t in scene.things)
    kite = next(s for s in scenes if any(t.model.class_name == "kite" for t in s.things))
    assert render_view(kite, 0, 32)["rgb"].shape == (32, 32, 3)


def test_a_glb_keeps_its_colour_and_is_turned_upright(tmp_path: Path) -> None:
    mesh = trimesh.creation.box(extents=(1, 3, 2))  # y is up in GLB files
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=(200, 30, 20, 255))
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    mesh.export(tmp_path / "crate.glb")
    (tmp_path / "classes.json").write_text(json.dumps({"crate.glb": {"class": "suitcase", "height": 1.5}}))
    (model,) = load_assets(tmp_path)
    assert np.allclose(np.ptp(model.bounds, axis=0), (0.5, 1.0, 1.5), atol=1e-5)
    red, green, blue = model.parts[0].material.colour
    assert red > 5 * max(green, blue)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"class": "kite"}, "positive 'height'"),
        ({"class": "kyte", "height": 1}, "Did you mean 'kite'"),
        ({"class": "kite", "height": 1, "up": "x"}, "'up' must be"),
        ({"class": "kite", "height": 1}, "there is no file"),
    ],
)
def test_bad_assets_are_named(tmp_path: Path, entry: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=r"classes\.json: there is no such file"):
        load_assets(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps({"thing.obj": entry}))
    with pytest.raises(DataError, match=told):
        load_assets(tmp_path)


def test_flat_models_and_broken_tables_are_named(tmp_path: Path) -> None:
    trimesh.creation.box(extents=(1, 1, 0)).export(tmp_path / "card.obj")
    (tmp_path / "classes.json").write_text('{"card.obj": {"class": "book", "height": 1, "up": "z"}}')
    with pytest.raises(DataError, match=r"card\.obj has no height"):
        load_assets(tmp_path)
    (tmp_path / "classes.json").write_text('{"card.obj": ')
    with pytest.raises(DataError, match=r"classes\.json: not JSON"):
        load_assets(tmp_path)


def test_broken_model_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "thing.glb").write_bytes(b"not a model")
    (tmp_path / "classes.json").write_text(json.dumps({"thing.glb": {"class": "kite", "height": 1}}))
    with pytest.raises(DataError, match=r"thing\.glb"):
        load_assets(tmp_path)
