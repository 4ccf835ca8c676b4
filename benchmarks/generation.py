"""Generation: the plain algorithm of the reference against ours, on random weights in the published form.

    python -m benchmarks.generation --size tiny                                # a minute or two: does everything run?
    python -m benchmarks.generation --size base --repeats 3 --json base.json    # sequences end after 48 words
    python -m benchmarks.generation --size base --full --repeats 1 --json full.json
    python -m benchmarks.generation --size base --dtype int8 --tasks caption_256    # against bfloat16 on the plain side

Each side has a process of its own, with the same weights; they take turns. Seconds are medians, peaks the largest
resident memory of the process during a task (Linux: ``VmHWM``, reset before each run), weights included. Both sides run
once before they are timed, with sequences of two words, and ours once more, which counts its operations. Everything is
drawn at temperature 0, so that the tokens of both sides can be compared wherever they do the same work. int8 weights
and compiled blocks are options of ours: the plain side has bfloat16 instead, and runs as it is written.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest.mock import patch

import torch
import tyro
from torch import nn
from torch.nn.functional import linear

from benchmarks import detokenize, plain
from benchmarks.floor import Machine, Work
from benchmarks.loading import memory
from benchmarks.tasks import TASKS, Task, blueprint
from open4m.files import write_json
from open4m.generation import engine
from open4m.generation.canvas import Canvas
from open4m.generation.grammar import Grammar
from open4m.generation.passes import Passes
from open4m.modalities.base import TextModality
from open4m.modalities.grammar import Terms
from open4m.model import FourM, transformer
from open4m.model.compiled import compile_blocks, uncompiled
from open4m.model.linear import Linear
from open4m.precision import activation_dtype, prepacking_is_faster
from open4m.streams import StreamKind
from open4m.tokenizers.text import TextTokenizer

SIDES = ("plain", "open4m")
NAMES = (*TASKS, "detokenize")
WORDS, WARM_UP_WORDS = 48, 2
SHORT_VOCABULARY = 4600  # the grammars' words; ids beyond have none, and need none
ROOM = 10**6
Made = TypeVar("Made")


@dataclass(frozen=True)
class Settings:
    """What both processes must know."""

    size: str
    dtype: str
    sampled: bool
    machine: Machine
    compile: bool = False
    decoder_steps: int | None = None

    def about(self, side: str) -> str:
        """The side and how its weights are held, for people."""
        held = [self.dtype if side == "open4m" or self.dtype != "int8" else "bfloat16"]
        return f"{side} ({', '.join(held + ['compiled'] * (self.compile and side == 'open4m'))})"


@dataclass(frozen=True)
class Request:
    """A task to run: sequences of at most ``words``, None = whole; ``count`` its operations while running."""

    task: str
    words: int | None
    count: bool = False


@dataclass
class Answer:
    """What a run took: seconds, peak bytes, and if they were counted operations, bytes read, and the least seconds.

    ``tokens``: ids of every target by stream. ``notes``: for people.
    """

    seconds: float
    peak: int
    tokens: dict[str, list[int]]
    words: int = 0
    operations: int = 0
    bytes: int = 0
    floor: float = 0.0
    notes: str = ""

    def work(self) -> str:
        """What was counted, for people."""
        return f"{self.operations / 1e9:.4g} GFLOP, {self.bytes / 1e9:.3g} GB: {self.floor:.3g} s"


# -- one side ---------------------------------------------------------------------------------------------------------
def serve(side: str, settings: Settings, decoder: bool, connection: Connection) -> None:
    """A process: answers requests until there are no more."""
    worker = Decoder(side, settings) if decoder else Transformer(side, settings)
    connection.send(None)  # ready
    with patch.object(engine, "grammar_of", endless), ordinary_products() if side == "plain" else nullcontext():
        while (request := connection.recv()) is not None:
            connection.send(worker.answer(request))


@contextmanager
def ordinary_products() -> Iterator[None]:
    """While it is entered, linear layers and output tables are multiplied as PyTorch does."""
    with patch.object(Linear, "forward", nn.Linear.forward), patch.object(transformer, "table_product", linear):
        yield


def endless(modality: object, text: TextTokenizer) -> Grammar | None:
    """A grammar whose sentences end only where nothing can follow: random weights would end them anywhere."""
    if not isinstance(modality, TextModality):
        return None

    def next_terms(before: Sequence[str], room: int) -> Terms | None:
        del room
        terms = modality.next_terms(before, ROOM)
        return replace(terms, end=False) if terms is not None and terms.choices else terms

    return Grammar(next_terms, text)


class Worker(ABC):
    """What a process does for one side."""

    def __init__(self, side: str, settings: Settings) -> None:
        self.side, self.settings = side, settings
        self.dtype = activation_dtype(getattr(torch, settings.dtype))

    @abstractmethod
    def answer(self, request: Request) -> Answer:
        """Run a task."""

    def measured(self, work: Callable[[], Made], count: bool) -> tuple[Made, Answer]:
        """What ``work`` made, and what it took."""
        counted = Work()
        forget_peak()
        begun = time.perf_counter()
        with counted if count else nullcontext():
            made = work()
        answer = Answer(time.perf_counter() - begun, memory()["VmHWM"], {})
        if count:
            answer.operations, answer.bytes = counted.operations, counted.bytes
            answer.floor = counted.floor(self.settings.machine)
        return made, answer


class Transformer(Worker):
    """The weights and the code of one side."""

    def __init__(self, side: str, settings: Settings) -> None:
        super().__init__(side, settings)
        self.known = blueprint(settings.size)
        self.model = FourM(self.known.config, seed=0).eval()
        if side == "open4m" and settings.dtype == "int8":
            self.model.quantize()
        self.model.to(self.dtype)
        if side == "open4m" and settings.compile:
            compile_blocks(self.model)
        elif side == "open4m" and prepacking_is_faster("cpu", getattr(torch, settings.dtype)):
            self.model.prepack()
        self.passes = Passes(self.model)
        self.text = TextTokenizer.train(["a red ball on a wooden floor"] * 3, vocab_size=SHORT_VOCABULARY)

    def answer(self, request: Request) -> Answer:
        """Run a task of :data:`TASKS`."""
        task = TASKS[request.task]
        plan = task.plan(self.side, self.known, request.words, self.settings.sampled)
        canvas = task.canvas(self.known)

        def work() -> Canvas:
            if self.side == "plain":
                return plain.generate(plan, canvas, self.model, [0], self.text)
            with uncompiled(self.model) if request.count else nullcontext():  # what is compiled cannot be counted
                return engine.run(plan, canvas, self.passes, [0], self.text).canvas

        made, answer = self.measured(work, request.count)
        streams = [target.stream for target in plan.targets]
        answer.tokens = {name: made.tracks[name].ids[made.tracks[name].known].tolist() for name in streams}
        sequences = [s for s in streams if self.known.config.stream(s).kind is StreamKind.SEQUENCE]
        answer.words = sum(len(answer.tokens[name]) for name in sequences)
        return answer


class Decoder(Worker):
    """A diffusion decoder, and how one side samples with it."""

    def __init__(self, side: str, settings: Settings) -> None:
        super().__init__(side, settings)
        self.tokenizer = detokenize.decoder(settings.size, self.dtype)
        self.sampling, self.notes = detokenize.PLAIN, f"DDIM, {detokenize.PLAIN.steps} steps"
        if side == "open4m":
            choice = detokenize.choose(settings.decoder_steps)
            self.sampling = choice.sampling
            self.notes = (
                f"DPM-Solver++, {choice.sampling.steps} steps; error where the best denoiser is known "
                f"{choice.open4m_error:.2g}, of the other side {choice.plain_error:.2g}"
            )

    def answer(self, request: Request) -> Answer:
        """Decode a grid of ids."""
        ids = detokenize.ids(self.tokenizer)
        _, answer = self.measured(lambda: self.tokenizer.decode_tokens(ids, self.sampling), request.count)
        answer.notes = self.notes
        return answer


def forget_peak() -> None:
    """Give freed memory back to the kernel, and let the peak begin at what is resident now."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


# -- both sides -------------------------------------------------------------------------------------------------------
@contextmanager
def both_sides(settings: Settings, decoder: bool) -> Iterator[Callable[[str, Request], Answer]]:
    """A function that lets a side answer a request, and waits."""
    context = multiprocessing.get_context("spawn")
    ends, processes = {}, []
    for side in SIDES:
        ends[side], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(side, settings, decoder, other), daemon=True))
        processes[-1].start()
        other.close()
    for end in ends.values():
        end.recv()

    def ask(side: str, request: Request) -> Answer:
        ends[side].send(request)
        return ends[side].recv()

    try:
        yield ask
    finally:
        for end in ends.values():
            end.send(None)
        for process in processes:
            process.join()


@dataclass
class Row:
    """Results of a task: all runs of both sides, and a counted one of each."""

    task: str
    runs: dict[str, list[Answer]]
    counted: dict[str, Answer]

    def seconds(self, side: str) -> float:
        """Median."""
        return statistics.median(answer.seconds for answer in self.runs[side])

    def peak(self, side: str) -> float:
        """GB of the largest run."""
        return max(answer.peak for answer in self.runs[side]) / 1e9

    def result(self) -> dict[str, Any]:
        """The form that is compared between machines and versions."""
        found: dict[str, Any] = {"task": self.task}
        found |= {f"{side}_s": round(self.seconds(side), 4) for side in SIDES}
        return found | {f"{side}_peak_gb": round(self.peak(side), 3) for side in SIDES}

    def agreement(self) -> str:
        """The share of equal tokens, where both sides do the same work."""
        task: Task | None = TASKS.get(self.task)
        if task is None or not task.same:
            return "other work"
        ours, theirs = self.runs["open4m"][0].tokens, self.runs["plain"][0].tokens
        pairs = [(a, b) for name in ours for a, b in zip(ours[name], theirs[name], strict=False)]
        total = sum(max(len(ours[name]), len(theirs[name])) for name in ours)
        return f"{sum(a == b for a, b in pairs)} of {total}"

    def line(self) -> str:
        """A row of the table."""
        seconds, peaks = ([f(side) for side in SIDES] for f in (self.seconds, self.peak))
        floors = [self.counted[side].floor for side in SIDES]
        work = TASKS[self.task].work if self.task in TASKS else [a[0].notes for a in self.runs.values()]
        words = " / ".join(str(self.runs[side][0].words) for side in SIDES)
        cells = [
            *(self.task, f"{seconds[0]:.3g} s", f"{seconds[1]:.3g} s", f"{seconds[0] / seconds[1]:.1f} ×"),
            *(f"{peaks[0]:.2f} GB", f"{peaks[1]:.2f} GB", words, self.agreement()),
            *(self.counted[side].work() for side in SIDES),
            f"{floors[0] / floors[1]:.1f} ×",
            f"{floors[1] / seconds[1]:.0%}",
            *work,
        ]
        return f"| {' | '.join(cells)} |"


def head(settings: Settings) -> str:
    """The first lines of the table."""
    names = (
        *("task", *map(settings.about, SIDES), "ratio", "peak plain", "peak open4m", "words plain / open4m"),
        *("same tokens", "floor of plain", "floor of open4m", "ratio of floors", "floor reached"),
        *("plain computes", "open4m computes"),
    )
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def measure(
    ask: Callable[[str, Request], Answer], name: str, words: int | None, repeats: int, earlier: Row | None
) -> Row:
    """One task on both sides, which take turns. The plain side need not do again what it did for an ``earlier`` one."""
    timed = SIDES if earlier is None else SIDES[1:]
    for side in timed:
        ask(side, Request(name, WARM_UP_WORDS))  # what is kept for good is made here, and not counted
    row = Row(name, {side: [] for side in SIDES}, {side: ask(side, Request(name, words, count=True)) for side in timed})
    if earlier is not None:
        row.runs["plain"], row.counted["plain"] = earlier.runs["plain"], earlier.counted["plain"]
    for _ in range(repeats):
        for side in timed:
            row.runs[side].append(ask(side, Request(name, words)))
    return row


def same_plain_work(name: str, rows: Sequence[Row]) -> Row | None:
    """The row of another task for which the plain side does the same."""

    def work(task: Task) -> tuple[object, ...]:
        return task.given, task.targets, task.plain

    alike = (row for row in rows if {name, row.task} <= set(TASKS) and work(TASKS[row.task]) == work(TASKS[name]))
    return next(alike, None)


def main(
    size: Literal["tiny", "small", "base", "large", "xlarge"] = "tiny",
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32",
    compile: bool = False,
    full: bool = False,
    tasks: tuple[str, ...] = NAMES,
    repeats: int = 3,
    words: int = WORDS,
    sampled: bool = False,
    decoder_steps: int | None = None,
    json: Path | None = None,
) -> None:
    """Print the table row by row, and write the results.

    Args:
        size: of the transformer; the diffusion decoder is the published one but for tiny.
        dtype: of the weights of both sides; int8 is for ours, beside bfloat16 on the plain side.
        compile: compile the blocks of the transformer of ours.
        full: write sequences whole, as long as published, instead of ``words``.
        tasks: which of them.
        repeats: timed runs of each side.
        words: sequences end after so many.
        sampled: draw at the published temperatures; tokens are the same then, too, but for rare roundings.
        decoder_steps: of ours in detokenize; default: the fewest at equal error where the best denoiser is known.
        json: where the results are written after every task.
    """
    unknown = sorted(set(tasks) - set(NAMES))
    if unknown:
        raise SystemExit(f"unknown tasks {', '.join(unknown)}; known are {', '.join(NAMES)}")
    machine = Machine.measure(activation_dtype(getattr(torch, dtype)))  # one for both sides
    settings, rows = Settings(size, dtype, sampled, machine, compile, decoder_steps), []
    about = asdict(settings) | {"full": full, "words": words, "repeats": repeats}
    about |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    print(f"Floors: {machine.operations / 1e9:.3g} GFLOP/s, {machine.bytes / 1e9:.3g} GB/s.\n")
    print(head(settings), flush=True)
    for decoder in (False, True):
        names = [name for name in NAMES if name in tasks and (name in TASKS) != decoder]
        if not names:
            continue
        with both_sides(settings, decoder) as ask:
            for name in names:
                rows.append(measure(ask, name, None if full else words, repeats, same_plain_work(name, rows)))
                print(rows[-1].line(), flush=True)
                if json is not None:
                    write_json(json, {"tasks": [row.result() for row in rows], "settings": about})


if __name__ == "__main__":
    tyro.cli(main)
