"""Indexes of the tiny system: vectors, searching, going on, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_bundle import FEATURES, SENTENCES, bundle, picture
from tiny_data import SPLIT, values, write_data

from open4m.errors import DataError, GenerationError, ModalityError, UnknownNameError
from open4m.generation import AnyToAny
from open4m.modalities.registry import get_modality
from open4m.model import FourM
from open4m.retrieval import Embedder, Index, Term, storage
from open4m.retrieval import index as index_module


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return AnyToAny(bundle())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of several sizes, one in a folder inside, and what is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for i in range(7):
        Image.fromarray(picture(i, 30 + i, 40)).save(folder / ("more" if i == 3 else ".") / f"{i}.png")
    (folder / "notes.txt").write_text("nothing")
    (folder / ".hidden.png").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def index(model: AnyToAny, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(model, pictures, tmp_path_factory.mktemp("index"), batch_size=3)


# -- vectors ----------------------------------------------------------------------------------------------------------
def test_vectors_are_the_features_that_the_model_predicts(model: AnyToAny) -> None:
    made = Embedder(model)({"rgb": [picture(0), picture(1)]})
    assert made.shape == (2, 2 * FEATURES) and made.dtype == np.float32
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    plan = model.plan(["dinov2_global"], ["rgb"])
    target = replace(plan["dinov2_global"], decode="expected")
    result = model.generate({"rgb": picture(1)}, plan=replace(plan, targets=(target,)))
    expected = result["dinov2_global"].value
    assert np.allclose(made[1, :FEATURES] * 2**0.5, expected / np.linalg.norm(expected), atol=1e-5)
    alone = Embedder(model, ["dinov2_global"])({"rgb": [picture(1)]})
    assert np.allclose(alone[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_given_features_are_taken_as_they_are(model: AnyToAny) -> None:
    vectors = {name: values(5)[name] for name in ("dinov2_global", "imagebind_global")}
    made = Embedder(model)({name: [vector] for name, vector in vectors.items()})[0]
    parts = [vector / np.linalg.norm(vector) for vector in vectors.values()]
    assert np.allclose(made, np.concatenate(parts) / 2**0.5, atol=1e-6)


def test_spaces_are_checked(model: AnyToAny) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'dinov2_global'"):
        Embedder(model, ["dinov2_globa"])
    blind = AnyToAny(bundle())
    streams = tuple(s for s in blind.bundle.config.streams if not s.modality.endswith("_global"))
    kept = {k: v for k, v in bundle().info.stream_tokenizers.items() if not k.endswith("_global")}
    small = FourM(replace(blind.bundle.config, streams=streams))
    small.trained = True
    blind = AnyToAny(replace(bundle(), model=small, info=replace(bundle().info, stream_tokenizers=kept)))
    with pytest.raises(GenerationError, match="predicts no global feature"):
        Embedder(blind)


def test_fingerprints_tell_weights_apart_but_not_number_formats(model: AnyToAny) -> None:
    first = Embedder(model).fingerprint(["depth"])
    assert first == Embedder(model).fingerprint(["depth"])
    assert first != Embedder(model, ["dinov2_global"]).fingerprint(["depth"])
    weights = bundle().model.state_dict()

    def other(change: float, dtype: torch.dtype) -> str:
        changed = FourM(bundle().config)
        changed.load_state_dict({n: w + change * (n == list(weights)[-1]) for n, w in weights.items()})
        changed.trained = True
        return Embedder(AnyToAny(replace(bundle(), model=changed.to(dtype)))).fingerprint(["depth"])

    assert other(0.0, torch.float32) == other(0.0, torch.bfloat16) == first
    assert other(1.0, torch.float32) != first
    rounded = deepcopy(bundle().model)
    rounded.quantize()  # its vectors are others, and must not be mixed with those of the exact weights
    assert Embedder(AnyToAny(replace(bundle(), model=rounded))).fingerprint(["depth"]) != first


# -- searching --------------------------------------------------------------------------------------------------------
def test_an_item_finds_itself(index: Index, pictures: Path) -> None:
    assert len(index) == 7 and index.update is not None and index.update.added == 7
    for key in ("0.png", "more/3.png"):
        hits = index.search({"rgb": pictures / key}, k=3)
        assert hits[0].key == key and hits[0].score == pytest.approx(1, abs=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_scores_are_cosines_and_all_items_are_ranked(model: AnyToAny, index: Index) -> None:
    query = {"caption": "a red ball", "depth": values(0)["depth"]}
    vector = Embedder(model)({name: [value] for name, value in query.items()})[0]
    expected = index.vectors.numpy() @ vector
    hits = index.search(query, k=99)
    assert [hit.key for hit in hits] == [index.keys[i] for i in np.argsort(-expected, kind="stable")]
    assert np.allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-6)


def test_parts_of_a_hit_are_what_it_would_lose(index: Index) -> None:
    terms = [
        Term("caption", "a red ball"),
        Term("metadata", {"brightness": 20.0}, 2.0),
        Term("det", values(1)["det"], -0.5),
    ]
    hit = index.search(terms, k=1)[0]
    assert set(hit.parts) == {"caption", "metadata", "not det"}
    without = {h.key: h.score for h in index.search(terms[1:], k=99)}
    whole = {h.key: h.score for h in index.search(terms, k=99)}
    lost = {key: whole[key] - without[key] for key in whole}
    assert hit.parts["caption"] == pytest.approx(lost[hit.key] - np.mean(list(lost.values())), abs=1e-5)
    assert hit.driven_by == max(hit.parts, key=lambda label: hit.parts[label])


def test_what_is_unwanted_goes_down(index: Index, pictures: Path) -> None:
    query = [Term("rgb", pictures / "1.png"), Term("caption", "two dogs", 0.3)]
    first = index.search(query, k=1)[0].key
    assert first == "1.png"
    turned = index.search([query[1], Term("rgb", pictures / "1.png", -1)], k=7)
    assert turned[-1].key == "1.png"


def test_bad_queries_are_refused(index: Index, place: Path) -> None:
    (place / "d.png").write_bytes(b"nothing")
    (place / "none.json").write_text('{"instances": []}')
    for query, error, message in (
        ({}, GenerationError, "query is empty"),
        ({"det": place / "none.json"}, GenerationError, "part det is empty"),
        ([Term("caption", "x"), Term("caption", "x", -1)], GenerationError, "parts cancel"),
        ({"captoin": "a"}, UnknownNameError, "Did you mean 'caption'"),
        ({"depth": place / "none.png"}, ModalityError, "no such file"),
        ({"depth": place / "d.png"}, ModalityError, "not an image"),
    ):
        with pytest.raises(error, match=message):
            index.search(query)
    with pytest.raises(DataError, match="k is 0"):
        index.search({"caption": "a"}, k=0)


# -- galleries --------------------------------------------------------------------------------------------------------
def test_galleries_of_other_modalities(model: AnyToAny, tmp_path: Path) -> None:
    for i in range(3):
        get_modality("caption").write(SENTENCES[i], tmp_path / "texts" / f"{i}.txt")
        get_modality("depth").write(values(i)["depth"], tmp_path / "maps" / f"{i}.png")
    texts = Index.build(model, tmp_path / "texts", tmp_path / "a", modalities=["caption"])
    assert texts.search({"caption": SENTENCES[1]}, k=1)[0].key == "1.txt"
    maps = Index.build(model, tmp_path / "maps", tmp_path / "b", modalities=["depth"])
    assert maps.search({"depth": tmp_path / "maps" / "2.png"}, k=1)[0].key == "2.png"
    assert texts.gallery.value("0.txt", "caption") == SENTENCES[0] and texts.gallery.shown == "caption"


def test_data_sets(model: AnyToAny, tmp_path: Path) -> None:
    write_data(tmp_path / "data", 4, names=("rgb", "caption", "dinov2_global", "imagebind_global"))
    several = Index.build(model, tmp_path / "data", tmp_path / "a", modalities=["rgb", "caption"], split=SPLIT)
    query = {"rgb": values(2)["rgb"], "caption": values(2)["caption"]}
    assert several.search(query, k=1)[0].key == "0002"
    spaces = ("dinov2_global", "imagebind_global")
    true = Index.build(model, tmp_path / "data", tmp_path / "b", modalities=spaces, split=SPLIT)
    stored = [true.gallery.value("0003", name) for name in spaces]
    expected = np.concatenate([v / np.linalg.norm(v) for v in stored]) / 2**0.5
    assert np.allclose(true.vectors[true.keys.index("0003")], expected, atol=1e-6)
    assert true.gallery.shown == "rgb" and true.gallery.value("0003", "rgb").shape == (32, 32, 3)
    with pytest.raises(UnknownNameError, match="depth"):
        Index.build(model, tmp_path / "data", tmp_path / "c", modalities=["depth"], split=SPLIT)
    with pytest.raises(DataError, match=f"Name the split: {SPLIT}"):
        Index.build(model, tmp_path / "data", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_bad_galleries_are_refused(model: AnyToAny, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"nothing")

    def build(folder: str, **options: Any) -> Index:
        return Index.build(model, tmp_path / folder, tmp_path / "out", **options)

    with pytest.raises(DataError, match="nothing to index"):
        build("empty")
    with pytest.raises(DataError, match="no such folder"):
        build("nowhere")
    with pytest.raises(DataError, match="one modality, not rgb, depth"):
        build("empty", modalities=["rgb", "depth"])
    with pytest.raises(UnknownNameError, match="modality 'rbg'"):
        build("empty", modalities=["rbg"])
    with pytest.raises(DataError, match="batch_size is 0"):
        build("empty", batch_size=0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"none of 1 items can be read. The first, x\.png: .*not an image"):
        build("broken")
    with pytest.raises(DataError, match="the index is empty"):
        Index.open(tmp_path / "out", model)


# -- keeping up -------------------------------------------------------------------------------------------------------
def stored(index: Index) -> dict[str, list[float]]:
    return dict(zip(index.keys, index.vectors.tolist(), strict=True))


def test_only_what_is_new_or_changed_is_computed(model: AnyToAny, place: Path) -> None:
    for i in range(4):
        Image.fromarray(picture(i)).save(place / f"{i}.png")
    first = Index.build(model, place, place / "index")
    before = stored(first)
    Image.fromarray(picture(9)).save(place / "1.png")
    os.utime(place / "1.png", (1, 1))
    (place / "2.png").unlink()
    Image.fromarray(picture(4)).save(place / "4.png")
    (place / "5.png").write_bytes(b"nothing")
    seen: list[tuple[str, int, int]] = []
    second = Index.build(model, place, place / "index", progress=lambda *step: seen.append(step))
    assert second.update is not None and (second.update.added, second.update.dropped) == (2, 2)
    assert list(second.update.unreadable) == ["5.png"] and "not an image" in second.update.unreadable["5.png"]
    assert seen == [("index", 3, 3)]
    after = stored(second)
    assert set(after) == {"0.png", "1.png", "3.png", "4.png"}
    assert after["0.png"] == before["0.png"] and after["1.png"] != before["1.png"]
    assert second.search({"rgb": picture(9)}, k=1)[0].key == "1.png"
    again = Index.build(model, place, place / "index", progress=lambda *step: seen.append(step))
    assert stored(again) == after and len(seen) == 2 and seen[1] == ("index", 1, 1)  # the bad file is looked at again


KILLED = """
import os, sys
from tiny_bundle import bundle
from open4m.generation import AnyToAny
from open4m.retrieval import Index, storage

storage.PART = 2

def kill(what, done, total):
    if done >= 4:
        os.kill(os.getpid(), 9)

Index.build(AnyToAny(bundle()), sys.argv[1], sys.argv[2], batch_size=1, progress=kill)
"""


def test_a_killed_run_goes_on(model: AnyToAny, pictures: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", KILLED, str(pictures), str(place / "index")]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert killed.returncode == -9
    monkeypatch.setattr(storage, "PART", 2)
    seen: list[int] = []
    index = Index.build(
        model, pictures, place / "index", batch_size=1, progress=lambda _what, _done, total: seen.append(total)
    )
    assert seen == [3, 3, 3]  # the first four were kept
    whole = Index.build(model, pictures, place / "whole", batch_size=7)
    assert set(index.keys) == set(whole.keys)
    for key, vector in stored(index).items():
        assert np.allclose(vector, stored(whole)[key], atol=1e-5)


def test_an_interrupted_run_keeps_everything_it_computed(model: AnyToAny, pictures: Path, place: Path) -> None:
    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index.build(model, pictures, place / "index", batch_size=2, progress=interrupt)
    assert len(Index.open(place / "index", model)) == 4


def test_vectors_are_found_without_the_pictures(model: AnyToAny, place: Path) -> None:
    Image.fromarray(picture(0)).save(place / "0.png")
    (place / "gallery").mkdir()
    (place / "0.png").rename(place / "gallery" / "0.png")
    Index.build(model, place / "gallery", place / "index")
    (place / "gallery").rename(place / "elsewhere")
    index = Index.open(place / "index", model)
    assert index.search({"caption": "a"})[0].key == "0.png"
    with pytest.raises(DataError, match="no such folder"):
        _ = index.gallery


# -- what is refused --------------------------------------------------------------------------------------------------
@pytest.fixture
def copy(model: AnyToAny, place: Path) -> Path:
    """A fresh index of two pictures, to be spoiled."""
    (place / "gallery").mkdir()
    for i in range(2):
        Image.fromarray(picture(i)).save(place / "gallery" / f"{i}.png")
    Index.build(model, place / "gallery", place / "index")
    return place / "index"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_fingerprint": "0"}, "another weights fingerprint"),
        ({"model": "other"}, "another model: other, not tiny"),
        ({"format_version": 2}, "another format version"),
        ({"extra": 1}, "no index of open4m"),
        ({"spaces": 3}, "no index of open4m"),
        ({"root": 3}, "no index of open4m"),
    ],
)
def test_foreign_indexes_are_refused(changes: dict[str, Any], message: str, copy: Path, model: AnyToAny) -> None:
    edit(copy / "index.json", **changes)
    with pytest.raises(DataError, match=message):
        Index.open(copy, model)


def test_an_index_is_not_continued_in_another_way(copy: Path, model: AnyToAny) -> None:
    with pytest.raises(DataError, match="another spaces"):
        Index.build(model, copy.parent / "gallery", copy, spaces=["dinov2_global"])
    get_modality("depth").write(values(0)["depth"], copy.parent / "maps" / "0.png")
    with pytest.raises(DataError, match="another modalities"):
        Index.build(model, copy.parent / "maps", copy, modalities=["depth"])
    Image.fromarray(picture(0)).save(copy.parent / "maps" / "1.png")
    with pytest.raises(DataError, match="another root"):
        Index.build(model, copy.parent / "maps", copy)


def damages(part: Path) -> dict[str, Any]:
    good = part.read_bytes()
    return {
        "empty": b"",
        "cut off": good[:-8],
        "no safetensors": b"hello" * 100,
        "items missing": {"fingerprint": "{print}"},
        "items no list": {"fingerprint": "{print}", "items": "3"},
        "more items": {"fingerprint": "{print}", "items": json.dumps([["a", [1, 1]]] * 3)},
        "foreign": {"fingerprint": "0", "items": "[]"},
    }


def test_damaged_parts_are_refused(copy: Path, model: AnyToAny) -> None:
    part = copy / "part-00000.safetensors"
    fingerprint = json.loads((copy / "index.json").read_text())["weights_fingerprint"]
    for what, damage in damages(part).items():
        if isinstance(damage, bytes):
            part.write_bytes(damage)
        else:
            header = {key: text.replace("{print}", fingerprint) for key, text in damage.items()}
            save_file({"vectors": torch.zeros(2, 2 * FEATURES)}, part, header)
        with pytest.raises(DataError, match=r"part-00000\.safetensors: damaged or foreign"):
            Index.open(copy, model)
            pytest.fail(what)
    items = json.dumps([["a", [1, 1]], ["b", [1, 1]]])
    header = {"fingerprint": fingerprint, "items": items}
    save_file({"vectors": torch.full((2, 2 * FEATURES), torch.nan)}, part, header)
    with pytest.raises(DataError, match="not finite"):
        Index.open(copy, model)


def test_no_index_at_all(tmp_path: Path, model: AnyToAny) -> None:
    with pytest.raises(DataError, match="there is no index"):
        Index.open(tmp_path, model)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Index.open(tmp_path, model)


# -- approximate search -----------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # SWIG's types
def test_faiss_is_used_where_it_was_made_and_fits(copy: Path, model: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.open(copy, model)
    assert index.approximate() is None  # too few
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(index_module, "APPROXIMATE_FROM", 2)
    record = index.approximate()
    assert record is not None and record.recall == 1
    asked: list[int] = []
    search = faiss.IndexIVFFlat.search

    def counting(self: Any, x: np.ndarray, k: int) -> Any:
        asked.append(k)
        return search(self, x, k)

    monkeypatch.setattr(faiss.IndexIVFFlat, "search", counting)
    again = Index.open(copy, model)
    assert again.approximate() == record
    query = {"rgb": copy.parent / "gallery" / "1.png"}
    fast, slow = again.search(query, k=5), again.search(query, k=5, always_exact=True)
    assert asked == [2] and [hit.key for hit in fast] == [hit.key for hit in slow] == ["1.png", "0.png"]
    many = again.search(query, k=11)  # more than it was measured for
    assert asked == [2] and [hit.key for hit in many] == ["1.png", "0.png"]
    monkeypatch.setattr(faiss.IndexIVFFlat, "search", lambda *_: (None, np.array([[1, -1]])))  # too few were found
    assert [hit.key for hit in again.search(query, k=2)] == ["1.png", "0.png"]
    monkeypatch.setattr(faiss.IndexIVFFlat, "search", counting)
    Image.fromarray(picture(2)).save(copy.parent / "gallery" / "2.png")
    more = Index.build(model, copy.parent / "gallery", copy)
    assert len(more.search(query, k=5)) == 3 and asked == [2]  # the stale one is not used
