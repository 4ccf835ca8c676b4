"""Adding folders to a data set that are computed from its other folders, shard by shard.

Used for labelling by networks and for tokenizing. Finished shards are skipped, so a stopped run goes on where it
was, and a data set that grows is completed by running again (a shard whose inputs have grown is computed anew).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from open4m.data.shards import Sample, ShardDataset, ShardWriter, finished_shards, shard_keys
from open4m.errors import DataError

Files = dict[str, tuple[str, bytes]]
Compute = Callable[[Sequence[Sample]], list[Files]]
"""Samples → for each of them the new files: folder name → (file ending without dot, content)."""


def derive_folders(
    root: str | Path,
    split: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    make_compute: Callable[[], Compute],
    *,
    workers: int = 1,
    chunk: int = 32,
    title: str = "computing",
    show_progress: bool = True,
) -> int:
    """Compute the folders ``outputs`` from the folders ``inputs`` wherever a shard of the former is missing or stale.

    Args:
        make_compute: makes the function that computes; called once per worker. It must be picklable (a function of
            a module, or a ``functools.partial`` of one) when there are several workers.
        workers: processes over disjoint shards; 1 = this process.
        chunk: samples given to the function at once.

    Returns:
        The number of samples computed now.

    Raises:
        DataError: the inputs are missing, or a worker failed (the error names it).
    """
    numbers = sorted(finished_shards(root, split, inputs))
    if not numbers:
        raise DataError(f"{Path(root) / split}: no shards with all of {', '.join(inputs)}. Render the split first.")
    dataset = ShardDataset(root, split, inputs)
    rows = dict(zip(numbers, dataset.shards, strict=True))
    finished = finished_shards(root, split, outputs)

    def is_done(number: int) -> bool:
        # A writer finishes the folders of a shard in their order: the last one speaks for all.
        if number not in finished:
            return False
        return shard_keys(root, split, outputs[-1], number) == [dataset.key(i) for i in rows[number]]

    missing = [n for n in numbers if not is_done(n)]
    total = sum(len(rows[n]) for n in missing)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=not show_progress) as progress:
        task = progress.add_task(f"{title} {split}", total=total, rate="")
        job = _Job(root, split, tuple(inputs), tuple(outputs), make_compute, chunk)
        steps = job.run(missing) if workers <= 1 else job.run_parallel(missing, min(workers, len(missing)))
        for count in steps:
            progress.advance(task, count)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.1f}/s" if speed else "")
    return total


class _Job:
    """One call of :func:`derive_folders`; picklable, so that worker processes can run parts of it."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        make_compute: Callable[[], Compute],
        chunk: int,
    ) -> None:
        self.root, self.split, self.inputs, self.outputs = root, split, inputs, outputs
        self.make_compute, self.chunk = make_compute, chunk

    def run(self, shards: Sequence[int]) -> Iterator[int]:
        """Compute these shards one after the other; yields the number of samples after each chunk."""
        if not shards:
            return
        compute = self.make_compute()
        numbers = sorted(finished_shards(self.root, self.split, self.inputs))
        dataset = ShardDataset(self.root, self.split, self.inputs)
        ranges = dict(zip(numbers, dataset.shards, strict=True))
        for shard in shards:
            rows = ranges[shard]
            with ShardWriter(self.root, self.split, self.outputs, max(len(rows), 1), first_shard=shard) as writer:
                for start in range(rows.start, rows.stop, self.chunk):
                    samples = [dataset[i] for i in range(start, min(start + self.chunk, rows.stop))]
                    for sample, files in zip(samples, compute(samples), strict=True):
                        writer.write(sample.key, files)
                    yield len(samples)

    def run_parallel(self, shards: Sequence[int], workers: int) -> Iterator[int]:
        """As :meth:`run`, with ``workers`` processes; the first failure stops all of them."""
        context = multiprocessing.get_context("spawn")
        messages: Queue[int | str | None] = context.Queue()
        processes = [context.Process(target=self._work, args=(shards[k::workers], messages)) for k in range(workers)]
        for process in processes:
            process.start()
        try:
            running = workers
            while running:
                message = self._next_message(messages, processes)
                if isinstance(message, str):
                    raise DataError(f"A worker failed: {message}")
                if message is None:
                    running -= 1
                else:
                    yield message
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                process.join()

    @staticmethod
    def _next_message(messages: Queue[int | str | None], processes: Sequence[object]) -> int | str | None:
        while True:
            try:
                return messages.get(timeout=1.0)
            except Empty:
                dead = [p for p in processes if getattr(p, "exitcode", None) not in (None, 0)]
                if dead:
                    return f"it ended with exit code {getattr(dead[0], 'exitcode', None)}, perhaps for want of memory."

    def _work(self, shards: Sequence[int], messages: Queue[int | str | None]) -> None:
        torch.set_num_threads(1)  # the processes share the cores; with more threads they wait for each other
        try:
            for count in self.run(shards):
                messages.put(count)
            messages.put(None)
        except Exception as error:  # told to the parent, which raises
            messages.put(f"{type(error).__name__}: {error}")
