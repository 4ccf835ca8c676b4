"""The pre-training loader: batches as a pure function of the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import count

import numpy as np

from open4m.batch import TokenBatch
from open4m.data.collate import collate
from open4m.data.masking import MaskedSample, mask_sample
from open4m.data.mixture import Draw, Mixture
from open4m.data.reader import SampleReader
from open4m.data.shards import ShardDataset
from open4m.errors import DataError
from open4m.streams import StreamSpec
from open4m.tokenizers.text import TextTokenizer

_PER_STEP, _PER_SAMPLE = 0, 1  # kinds of random streams


class PretrainLoader:
    """Masked batches of a data set, in shuffled epochs without end.

    ``batch(step)`` depends on (seed, step, rank) only, so a resumed training needs no stored state; and R ranks with
    b samples each see the samples and masks of one rank with R · b.

    Args:
        dataset: the data set, with at least the folders that the mixture uses; see :class:`SampleReader`.
        streams: all streams of the model, in its order.
        mixture: what is visible and what is predicted.
        text: tokenizer of the sequences.
        batch_size: samples of one rank per step.
        seed: of order, crops and masks.
        rank, world_size: number of this process and of all.

    Raises:
        DataError, UnknownNameError: the mixture does not fit the streams, or folders are missing.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        streams: Sequence[StreamSpec],
        mixture: Mixture,
        text: TextTokenizer,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size or batch_size < 1 or len(dataset) == 0:
            raise DataError(
                f"A loader needs samples, batch_size >= 1 and 0 <= rank < world_size; "
                f"got {len(dataset)} samples, {batch_size}, {rank}, {world_size}."
            )
        mixture.check(streams)
        used = {n for c in mixture.components for table in (c.inputs, c.targets) for n, alpha in table.items() if alpha}
        self._reader = SampleReader(dataset, [s for s in streams if s.name in used], text)
        self._streams, self._mixture, self._text = tuple(streams), mixture, text
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._world_size, self._length = rank, world_size, len(dataset)

    def batch(self, step: int) -> TokenBatch:
        """The batch of this rank at ``step`` (0, 1, …)."""
        shared = None
        if self._mixture.component_per_batch:
            shared = self._mixture.draw(np.random.default_rng([self._seed, _PER_STEP, step]))
        slots = range(self._rank * self._batch_size, (self._rank + 1) * self._batch_size)
        return collate([self._sample(step, slot, shared) for slot in slots], self._streams)

    def batches(self, first_step: int = 0, ahead: int = 2) -> Iterator[TokenBatch]:
        """The batches from ``first_step`` on, without end; up to ``ahead`` are prepared in a background thread."""
        if ahead < 1:
            yield from map(self.batch, count(first_step))
        pool = ThreadPoolExecutor(1, thread_name_prefix="open4m-loader")
        try:
            pending: deque[Future[TokenBatch]] = deque()
            for step in count(first_step):
                pending.append(pool.submit(self.batch, step))
                if len(pending) > ahead:
                    yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _sample(self, step: int, slot: int, shared: Draw | None) -> MaskedSample:
        """The sample of one place in the batch of all ranks."""
        rng = np.random.default_rng([self._seed, _PER_SAMPLE, step, slot])
        epoch, place = divmod(step * self._world_size * self._batch_size + slot, self._length)
        index = int(_order(self._seed, epoch, self._length)[place])
        draw = shared or self._mixture.draw(rng)
        content = self._reader.content(index, rng)
        return mask_sample(draw, self._streams, content, self._text, rng, self._mixture.redistribute)


@lru_cache(4)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of the samples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(length)
