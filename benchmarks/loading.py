"""Memory and time of loading a model in the published format: random weights, written to a scratch folder.

    python -m benchmarks.loading B --dtype float32 --scratch /tmp/scratch

The model is loaded in a process of its own, whose memory is read from ``/proc`` (Linux). Two peaks are told, both
counted from the state after everything is imported:

- resident: all pages of the process, those of the mapped file included (``VmHWM``);
- own: pages that only this process has and that cannot be dropped and read again (``RssAnon``, sampled).

CPU time is user + system time of loading. Before, the bytes of the file are read once, which brings them into the page
cache where they fit, and whose CPU time is told, too.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DTYPES = {"float32": "F32", "bfloat16": "BF16"}
SAMPLING_SECONDS = 0.02


# -- writing ----------------------------------------------------------------------------------------------------------
def write_model(folder: Path, size: str, stored: str) -> int:
    """Write a 4M-21 of random weights in the published format, a tensor at a time; returns the bytes of its file."""
    import torch

    from open4m.hub.catalogue import published_configuration
    from open4m.hub.published import model_config, to_published
    from open4m.model import FourM
    from open4m.weights import CONFIG, WEIGHTS

    values = published_configuration(f"EPFL-VILAB/4M-21_{size}")
    config = model_config(values, size)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in FourM(config).state_dict().items()}
    noise = 0.02 * torch.randn(max(map(math.prod, shapes.values())), generator=torch.Generator().manual_seed(0))
    weights = to_published({key: noise[: math.prod(s)].view(s) for key, s in shapes.items()}, config)
    dtype = getattr(torch, stored)
    header, end = {}, 0
    for key, value in weights.items():
        start, end = end, end + value.numel() * dtype.itemsize
        header[key] = {"dtype": DTYPES[stored], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in weights.values():
            file.write(value.to(dtype).contiguous().view(torch.uint8).numpy().data)
    (folder / CONFIG).write_text(json.dumps(values))
    return (folder / WEIGHTS).stat().st_size


# -- measuring --------------------------------------------------------------------------------------------------------
def memory() -> dict[str, int]:
    """Bytes by name, as the kernel counts them for this process."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


@contextmanager
def peak_of_own_pages() -> Iterator[list[int]]:
    """A list whose entry is the largest ``RssAnon`` seen inside of the block."""
    seen, done = [memory()["RssAnon"]], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLING_SECONDS):
            seen[0] = max(seen[0], memory()["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen[0] = max(seen[0], memory()["RssAnon"])


def measure(folder: Path, dtype: str) -> dict[str, Any]:
    """Load ``folder`` in this process, with weights as ``dtype``."""
    import torch

    from open4m.hub import load_bundle
    from open4m.weights import WEIGHTS

    torch.set_num_threads(1)  # all work is done, and counted, in this thread
    start = time.thread_time()
    with (folder / WEIGHTS).open("rb", buffering=0) as file:
        buffer = bytearray(2**24)
        while file.readinto(buffer):
            pass
    del buffer
    reading = time.thread_time() - start
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory()
    start, begun = time.thread_time(), time.perf_counter()
    with peak_of_own_pages() as own:
        bundle = load_bundle(folder, dtype=getattr(torch, dtype))
    cpu, wall = time.thread_time() - start, time.perf_counter() - begun
    peak = memory()["VmHWM"] - before["VmRSS"]
    parameters = sum(p.numel() for p in bundle.model.parameters())
    return {
        **{"parameters": parameters, "file": (folder / WEIGHTS).stat().st_size, "resident": peak},
        **{"own": own[0] - before["RssAnon"], "cpu": cpu, "reading": reading, "wall": wall},
    }


def report(size: str, stored: str, dtype: str, scratch: Path | None) -> str:
    """Write, measure in another process, and remove again; a row of a Markdown table."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_model(Path(folder), size, stored)
        command = [sys.executable, "-m", "benchmarks.loading", size, "--dtype", dtype, "--measure", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    m = json.loads(done.stdout)
    share = [f"{m[key] / 1e9:.2f} GB ({m[key] / m['file']:.2f} ×)" for key in ("resident", "own")]
    times = f"{m['cpu']:.2f} s | {m['reading']:.2f} s | {m['wall']:.1f} s"
    return f"| {size} | {stored}, {m['file'] / 1e9:.2f} GB | {dtype} | {' | '.join(share)} | {times} |"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=("B", "L", "XL"))
    parser.add_argument("--stored", choices=DTYPES, default="float32", help="number format of the file")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="number format in memory")
    parser.add_argument("--scratch", type=Path, help="where the file is written; default: the temporary folder")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.dtype)))
    else:
        print("| size | file | in memory as | peak resident | peak own | CPU of loading | CPU of reading | wall |")
        print(report(given.size, given.stored, given.dtype, given.scratch))


if __name__ == "__main__":
    main()
