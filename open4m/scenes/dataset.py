"""Rendering data sets: deterministic, parallel, resumable."""

from __future__ import annotations

import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from open4m.data.shards import ShardWriter, finished_shards, shard_keys
from open4m.errors import DataError
from open4m.files import read_json, write_json
from open4m.modalities.caption import Caption
from open4m.modalities.color_palette import ColorPalette
from open4m.modalities.registry import get_modality
from open4m.scenes.assets import load_assets
from open4m.scenes.grading import Grade, draw_grade
from open4m.scenes.render import render_view
from open4m.scenes.worlds import VIEWS_PER_SCENE, WORLD_VERSION, sample_scene

FOLDERS = (
    "rgb", "depth", "normal", "semseg", "canny_edge", "sam_edge", "caption", "det", "metadata", "human_poses",
    "color_palette", "sam_instance",
)  # fmt: skip
"""Modalities written, one folder each."""

_RECORD = "scenes.json"
_POLL_SECONDS = 0.2
_GRADES = zlib.crc32(b"grades")
"""Of the seeds of grades: they leave the scenes as they are."""


@dataclass(frozen=True)
class _Job:
    """What all shards of a data set have in common."""

    root: str
    split: str
    count: int
    seed: int
    size: int
    shard_size: int
    assets: str | None
    graded: float

    def views(self, shard: int) -> range:
        """Indices of the views in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.count))

    def grade(self, view: int) -> Grade | None:
        """How the picture of a view is developed: None = as rendered."""
        rng = np.random.default_rng((self.seed, zlib.crc32(self.split.encode()), view, _GRADES))
        return draw_grade(rng) if rng.random() < self.graded else None


def render_dataset(
    out: str | Path,
    count: int,
    seed: int = 0,
    size: int = 112,
    workers: int | None = None,
    split: str = "train",
    shard_size: int = 500,
    assets: str | Path | None = None,
    graded: float = 0.0,
) -> None:
    """Render ``count`` views with all labels to ``OUT/<split>/<modality>/shard-00000.tar``.

    View i depends on (seed, split, i) only, not on ``workers``; splits share no scene. Finished shards are skipped,
    so an interrupted run goes on where it stopped, and a larger ``count`` adds to what is there.

    Args:
        size: side of the square pictures in pixels.
        workers: processes, by default one per core; 1 renders in this process.
        assets: folder of models, see :func:`open4m.scenes.assets.load_assets`.
        graded: share of the views that are developed darker, brighter, paler, …, see :mod:`open4m.scenes.grading`.

    Raises:
        DataError: the folder holds views of another seed, size or world; or the arguments make no sense.
    """
    if count < 1 or size < 16 or shard_size < 1:
        raise DataError(f"Expected count >= 1, size >= 16 and shard_size >= 1, got {count}, {size}, {shard_size}.")
    if not 0 <= graded <= 1:
        raise DataError(f"Expected a share of graded views, 0…1, got {graded}.")
    job = _Job(str(out), split, count, seed, size, shard_size, None if assets is None else str(assets), graded)
    _check_record(job)
    finished = finished_shards(out, split, FOLDERS)
    shards = [s for s in range(-(-count // shard_size)) if s not in finished or not _is_complete(job, s)]
    workers = max(1, min(workers or os.cpu_count() or 1, len(shards)))
    with _progress(job, sum(len(job.views(s)) for s in shards)) as advance:
        if workers == 1:
            for shard in shards:
                _render_shard(job, shard, advance)
        else:
            _render_parallel(job, shards, workers, advance)


def _is_complete(job: _Job, shard: int) -> bool:
    """Whether a finished shard holds all of its views, and was not cut short by a smaller count."""
    # A writer finishes the folders of a shard in their order: the last one speaks for all.
    return len(shard_keys(job.root, job.split, FOLDERS[-1], shard)) == len(job.views(shard))


def _check_record(job: _Job) -> None:
    """Compare with what the folder says it holds, and note the new count."""
    path = Path(job.root) / job.split / _RECORD
    record = asdict(job) | {"world": WORLD_VERSION, "views_per_scene": VIEWS_PER_SCENE}
    del record["root"]
    if path.is_file():
        found = read_json(path)
        found.setdefault("graded", 0.0)
        odd = sorted(k for k in record if k != "count" and found.get(k) != record[k])
        if odd:
            told = ", ".join(f"{k} = {found.get(k)!r} instead of {record[k]!r}" for k in odd)
            raise DataError(f"{path}: the folder holds other views: {told}. Choose another folder or delete this one.")
        if found["count"] > job.count:
            raise DataError(f"{path}: the folder already holds {found['count']} views, more than {job.count}.")
    write_json(path, record)


@contextmanager
def _progress(job: _Job, total: int) -> Iterator[Callable[[], None]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as bar:
        task = bar.add_task(f"rendering {job.split}", total=total, rate="")

        def advance() -> None:
            bar.advance(task)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{speed:.1f} views/s" if speed else "")

        yield advance


def _render_parallel(job: _Job, shards: list[int], workers: int, advance: Callable[[], None]) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _single_threaded():
        ticks: Queue[None] = manager.Queue()
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            pending = {pool.submit(_render_shard, job, shard, ticks) for shard in shards}
            try:
                while pending:
                    finished, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                    _drain(ticks, advance)
                    _raise_first(finished)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            _drain(ticks, advance)


def _raise_first(finished: set[Future[None]]) -> None:
    for future in finished:
        future.result()


def _drain(ticks: Queue[None], advance: Callable[[], None]) -> None:
    while True:
        try:
            ticks.get_nowait()
        except Empty:
            return
        advance()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Child processes started inside use one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _render_shard(job: _Job, shard: int, report: Callable[[], None] | Queue[None]) -> None:
    extra = load_assets(job.assets) if job.assets else ()
    tick = report if callable(report) else lambda: report.put(None)
    split_number = zlib.crc32(job.split.encode())
    scene_number, scene = -1, None
    with ShardWriter(job.root, job.split, FOLDERS, job.shard_size, first_shard=shard) as writer:
        for index in job.views(shard):
            if scene is None or index // VIEWS_PER_SCENE != scene_number:
                scene_number = index // VIEWS_PER_SCENE
                scene = sample_scene((job.seed, split_number, scene_number), extra)
            values = render_view(scene, index % VIEWS_PER_SCENE, job.size, job.grade(index))
            writer.write(f"{index:08d}", {name: _file(name, values[name]) for name in FOLDERS})
            tick()


def _file(name: str, value: Any) -> tuple[str, bytes]:
    """Ending and content of the file of one modality."""
    modality = get_modality(name)
    if isinstance(modality, Caption):
        return "json", modality.encode_all(value)
    if isinstance(modality, ColorPalette):
        return "json", modality.encode_all(value)
    return modality.extensions[0], modality.encode(value)
