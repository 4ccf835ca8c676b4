"""The loader: a pure function of (seed, step, rank) that keeps all streams of a sample aligned."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image

from open4m.batch import TokenBatch
from open4m.data.loader import PretrainLoader
from open4m.data.mixture import Component, Keep, Mixture
from open4m.data.reader import decode_npy
from open4m.data.shards import ShardDataset, ShardWriter
from open4m.errors import DataError, ModalityError, UnknownNameError
from open4m.modalities.caption import Caption
from open4m.modalities.det import Box
from open4m.modalities.human_poses import Person
from open4m.modalities.registry import get_modality
from open4m.modalities.rgb import Rgb
from open4m.modalities.sam_instance import Instance
from open4m.streams import Position, StreamKind, StreamSpec
from open4m.tokenizers.text import TextTokenizer

SIDE, COUNT, WIDTH = 16, 7, 8
SEQUENCES = {"caption": 32, "det": 64, "color_palette": 23, "metadata": 40, "human_poses": 100, "sam_instance": 290}


def npy(array: np.ndarray) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return "npy", buffer.getvalue()


def picture(index: int) -> np.ndarray:
    """Left half dark, right half bright, so that a flip shows."""
    value = np.full((SIDE, SIDE, 3), 10 * index, np.uint8)
    value[:, SIDE // 2 :] = 255
    return value


def files(index: int) -> dict[str, tuple[str, bytes]]:
    person = Person(
        np.array([0.1, 0.2, 0.5, 0.9]),
        np.eye(3, dtype=np.float32),
        np.tile(np.eye(3, dtype=np.float32), (23, 1, 1)),
        np.zeros(10, np.float32),
        np.array([1, 0, 0], np.float32),
    )
    corners = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    values: dict[str, Any] = {
        "rgb": picture(index),
        "det": [Box(0.1, 0.2, 0.5, 0.6, "dog")] * (index % 3),
        "metadata": {"brightness": 100.0, "n_humans": 1},
        "human_poses": [person],
        "sam_instance": [Instance(corners, np.array([0.1, 0.1, 0.9, 0.9]))],
        "t5_caption": np.full((5, WIDTH), index + 1, np.float32),
    }
    result = {n: (get_modality(n).extensions[0], get_modality(n).encode(v)) for n, v in values.items()}
    palettes = {str(k): [[index, k, 3]] * k for k in range(1, 8)}
    return {
        **result,
        "caption": ("json", Caption().encode_all([f"a red car {index}", "two dogs"])),
        "color_palette": ("json", str([palettes]).replace("'", '"').encode()),
        "tok_depth": npy(np.stack([np.full(4, index), np.full(4, 100 + index)]).astype(np.int16)),
        "tok_human_poses": npy(np.full((1, 8), 7, np.int16)),
        "tok_sam_instance": npy(np.full((1, 16), 9, np.int16)),
        "crop_settings": npy(np.array([[0, 0, SIDE, SIDE, 0], [0, 0, SIDE, SIDE, 1]])),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with ShardWriter(folder, "train", list(files(0)), 4) as writer:
        for i in range(COUNT):
            writer.write(f"{i:03d}", files(i))
    return folder


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return TextTokenizer.train([f"a red car {i} two dogs" for i in range(10)] * 2, vocab_size=5000)


STREAMS = (
    StreamSpec(
        "rgb@16", "rgb", StreamKind.PIXELS, 4, grid=(2, 2), patch_size=8, channels=3, position=Position.SINCOS_2D,
        is_target=False,
    ),
    StreamSpec("tok_depth@16", "depth", StreamKind.TOKENS, 4, vocab_size=128, grid=(2, 2)),
    *(StreamSpec(n, n, StreamKind.SEQUENCE, m, vocab_size=5000) for n, m in SEQUENCES.items()),
    StreamSpec("t5_caption", "t5_caption", StreamKind.EMBEDDING, 77, channels=WIDTH, is_target=False),
)  # fmt: skip
NAMES = [s.name for s in STREAMS]
EVERYTHING = Mixture(
    (
        Component("any", dict.fromkeys(NAMES, 0.5), dict.fromkeys(NAMES[1:], 0.5), {}, (40, 60), (60, 60)),
        Component("rgb", {"rgb@16": 1.0}, dict.fromkeys(NAMES[1:], 1.0), {}, (4, 4), (60, 60)),
    )
)


def loader(root: Path, text: TextTokenizer, mixture: Mixture = EVERYTHING, **options: Any) -> PretrainLoader:
    streams = options.pop("streams", STREAMS)
    return PretrainLoader(ShardDataset(root, "train"), streams, mixture, text, **{"batch_size": 4, **options})


def only(inputs: dict[str, float], targets: dict[str, float], **keep: Keep) -> Mixture:
    return Mixture((Component("only", inputs, targets, keep, (300, 300), (300, 300)),))


def equal(a: TokenBatch, b: TokenBatch) -> bool:
    def tensors(batch: TokenBatch) -> list[torch.Tensor]:
        parts = [v for part in (batch.inputs, batch.targets) for v in vars(part).values()]
        return [t for p in parts for t in (p.values() if isinstance(p, dict) else [p])]

    return all(x.shape == y.shape and bool((x == y).all()) for x, y in zip(tensors(a), tensors(b), strict=True))


def rows_of(batch: TokenBatch, part: Any, stream: str, field: str) -> list[list[int]]:
    """The values of ``field`` at the positions of one stream, sample by sample."""
    chosen = (part.stream == batch.streams.index(stream)) & part.valid
    return [getattr(part, field)[i][chosen[i]].tolist() for i in range(len(chosen))]


# -- a pure function ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("per_batch", [False, True])
def test_batches_depend_on_seed_step_and_rank_only(root: Path, text: TextTokenizer, per_batch: bool) -> None:
    mixture = replace(EVERYTHING, component_per_batch=per_batch, redistribute=per_batch)
    first, second = loader(root, text, mixture, seed=3), loader(root, text, mixture, seed=3)
    later = [first.batch(step) for step in range(6)]
    assert equal(second.batch(5), later[5])  # without having made the others
    assert not equal(later[4], later[5])
    assert not equal(loader(root, text, mixture, seed=4).batch(5), later[5])


@pytest.mark.parametrize("per_batch", [False, True])
def test_two_ranks_see_what_one_would(root: Path, text: TextTokenizer, per_batch: bool) -> None:
    mixture = replace(EVERYTHING, component_per_batch=per_batch)
    for step in range(3):
        whole = loader(root, text, mixture, batch_size=6).batch(step)
        halves = [loader(root, text, mixture, batch_size=3, rank=r, world_size=2).batch(step) for r in (0, 1)]
        for i in range(6):
            half = halves[i // 3]
            for side in ("inputs", "targets"):
                for field in ("stream", "position", "token"):
                    a, b = getattr(whole, side), getattr(half, side)
                    mine = getattr(a, field)[i][a.valid[i]]
                    assert mine.tolist() == getattr(b, field)[i % 3][b.valid[i % 3]].tolist()


def test_every_epoch_shows_every_sample_once(root: Path, text: TextTokenizer) -> None:
    load = loader(root, text, only({}, {"tok_depth@16": 1.0}), batch_size=2)
    seen = []
    for step in range(COUNT):  # two epochs
        batch = load.batch(step)
        seen += [row[0] % 100 for row in rows_of(batch, batch.targets, "tok_depth@16", "label")]
    assert sorted(seen[:COUNT]) == sorted(seen[COUNT:]) == list(range(COUNT))
    assert seen[:COUNT] != seen[COUNT:]


def test_background_batches_are_the_same_and_stop(root: Path, text: TextTokenizer) -> None:
    load = loader(root, text)
    for ahead in (0, 2):
        batches = load.batches(first_step=2, ahead=ahead)
        assert all(equal(batch, load.batch(2 + i)) for i, batch in enumerate(islice(batches, 3)))
        batches.close()  # type: ignore[attr-defined]
    assert not any(t.name.startswith("open4m-loader") for t in threading.enumerate())


# -- aligned content ------------------------------------------------------------------------------------------------
def test_pixels_and_tokens_come_from_the_same_crop(root: Path, text: TextTokenizer) -> None:
    load = loader(root, text, only({"rgb@16": 1.0}, {"tok_depth@16": 1.0}), batch_size=8)
    flips = set()
    for step in range(3):
        batch = load.batch(step)
        for i, labels in enumerate(rows_of(batch, batch.targets, "tok_depth@16", "label")):
            flipped, index = divmod(labels[0], 100)
            flips.add(flipped)
            value = picture(index)[:, ::-1] if flipped else picture(index)
            expected = torch.from_numpy(Rgb().pixels_for_model(value))
            torch.testing.assert_close(batch.inputs.dense["rgb@16"][i], expected)
        assert sorted(rows_of(batch, batch.inputs, "rgb@16", "position")[0]) == [0, 1, 2, 3]
    assert flips == {0, 1}


def test_lying_photographs_are_cropped_upright(tmp_path: Path, text: TextTokenizer) -> None:
    upright = np.zeros((24, SIDE, 3), np.uint8)
    upright[4:20] = np.arange(SIDE)[:, None] * 10 + 50  # the centre square
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera stored it turned to the left
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(buffer, "PNG", exif=exif)
    content = {**files(0), "rgb": ("png", buffer.getvalue())}
    del content["crop_settings"]
    with ShardWriter(tmp_path, "train", list(content)) as writer:
        writer.write("0", content)
    batch = loader(tmp_path, text, only({"rgb@16": 1.0}, {}), batch_size=1).batch(0)
    expected = torch.from_numpy(Rgb().pixels_for_model(upright[4:20]))
    torch.testing.assert_close(batch.inputs.dense["rgb@16"][0], expected)


def test_captions_and_palettes_are_drawn(root: Path, text: TextTokenizer) -> None:
    streams = ["caption", "color_palette"]
    keep = dict.fromkeys(streams, Keep.ALL)
    load = loader(root, text, only(dict.fromkeys(streams, 10.0), {}, **keep), batch_size=8)
    captions, sizes = set(), set()
    for step in range(8):
        batch = load.batch(step)
        captions |= {text.decode(row) for row in rows_of(batch, batch.inputs, "caption", "token")}
        sizes |= {len(row) for row in rows_of(batch, batch.inputs, "color_palette", "token")}
    assert captions == {f"a red car {i} [EOS]" for i in range(COUNT)} | {"two dogs [EOS]"}
    assert sizes == {1 + 3 * k + 1 for k in range(1, 8)}


def test_codes_reach_the_words_unless_the_crop_changes_the_item(root: Path, text: TextTokenizer) -> None:
    mixture = only({"rgb@16": 1.0}, {"human_poses": 5.0, "sam_instance": 5.0})
    batch = loader(root, text, mixture, batch_size=16).batch(0)
    poses = rows_of(batch, batch.targets, "human_poses", "label")
    instances = rows_of(batch, batch.targets, "sam_instance", "label")
    flipped = [bool(pixels[0, 0, 0] > pixels[0, 0, -1]) for pixels in batch.inputs.dense["rgb@16"]]
    assert set(flipped) == {True, False}
    for i, flip in enumerate(flipped):
        assert bool(poses[i]) == bool(instances[i]) == (not flip)
        if not flip:
            assert " ".join(["v0=7"] * 8) in text.decode(poses[i])
            assert " ".join(["v0=9"] * 16) in text.decode(instances[i]) or "none" in text.decode(instances[i])


def test_states_are_given_row_by_row(root: Path, text: TextTokenizer) -> None:
    load = loader(root, text, only({"t5_caption": 1.0}, {"tok_depth@16": 1.0}, t5_caption=Keep.ALL))
    batch = load.batch(0)
    labels = rows_of(batch, batch.targets, "tok_depth@16", "label")
    assert batch.inputs.dense["t5_caption"].shape == (4, 5, WIDTH)
    for i, row in enumerate(labels):
        assert (batch.inputs.dense["t5_caption"][i] == row[0] % 100 + 1).all()
    assert rows_of(batch, batch.inputs, "t5_caption", "position") == [[0, 1, 2, 3, 4]] * 4


# -- errors -----------------------------------------------------------------------------------------------------------
def changed(name: str, **options: Any) -> tuple[StreamSpec, ...]:
    return tuple(replace(s, **options) if s.name == name else s for s in STREAMS)


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        (changed("tok_depth@16", vocab_size=2), "another tokenizer"),
        (changed("tok_depth@16", max_tokens=9, grid=(3, 3)), "expected more than"),
        (changed("t5_caption", channels=3), "width 8"),
    ],
)
def test_data_of_another_model_are_refused(
    root: Path, text: TextTokenizer, streams: tuple[StreamSpec, ...], message: str
) -> None:
    mixture = only({"tok_depth@16": 1.0, "t5_caption": 1.0}, {})
    with pytest.raises(DataError, match=message):
        loader(root, text, mixture, streams=streams, batch_size=COUNT).batch(0)


def test_damaged_files_are_named(tmp_path: Path, text: TextTokenizer) -> None:
    broken: dict[str, tuple[bytes, type[Exception], str]] = {
        "rgb": (b"no picture", ModalityError, "train/rgb, sample 7"),
        "crop_settings": (npy(np.zeros((0, 5), np.int64))[1], DataError, "train/crop_settings, sample 7"),
        "tok_depth": (b"no array", DataError, "train/tok_depth, sample 7"),
        "tok_human_poses": (npy(np.zeros((0, 8), np.int16))[1], ModalityError, "0 rows .* for 1"),
        "tok_sam_instance": (npy(np.zeros((0, 16), np.int16))[1], ModalityError, "0 rows .* for 1"),
    }
    for name, (data, kind, message) in broken.items():
        root = tmp_path / name
        with ShardWriter(root, "train", list(files(0))) as writer:
            writer.write("7", {**files(0), name: ("bin", data)})
        everything = only({}, {"tok_depth@16": 5.0, "human_poses": 5.0, "sam_instance": 5.0})
        with pytest.raises(kind, match=message):
            loader(root, text, everything, batch_size=1).batch(0)


def test_missing_folders_and_unknown_streams_are_named(root: Path, text: TextTokenizer) -> None:
    extra = StreamSpec("tok_clip@16", "clip", StreamKind.TOKENS, 4, vocab_size=8)
    with pytest.raises(DataError, match="no folder tok_clip"):
        loader(root, text, only({}, {"tok_clip@16": 1.0}), streams=(*STREAMS, extra))
    loader(root, text, streams=(*STREAMS, extra))  # not used by the mixture: not needed
    with pytest.raises(UnknownNameError, match="tok_depth@16"):
        loader(root, text, only({}, {"tok_depth@1": 1.0}))
    with pytest.raises(DataError, match="rank"):
        loader(root, text, rank=2, world_size=2)


@given(hnp.arrays(st.sampled_from([np.int16, np.int64, np.float16]), hnp.array_shapes(min_dims=1, max_dims=3)))
def test_npy_files_are_read(array: np.ndarray) -> None:
    array = np.nan_to_num(array)
    back = decode_npy(npy(array)[1])
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_npy_files_of_objects_are_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects"):
        decode_npy(buffer.getvalue())
    with pytest.raises(ValueError, match="npy"):
        decode_npy(b"nonsense")
