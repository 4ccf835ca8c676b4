"""A photograph through published-format models with random weights: does everything run, how long, how much memory?

Writes a 4M-21 model and its twelve tokenizers in the published layout (same names, keys and shapes as on the hub) with
random weights into a scratch folder, runs ``open4m generate`` on a photograph in a process of its own, checks the
shape of every result, and prints seconds and peak memory. What comes out is noise; the work is that of the real thing.

    python -m benchmarks.published_layout --out /tmp/published          # 4M-21_B: about 8 GB of files
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from safetensors.torch import save_file

from open4m.errors import ModalityError
from open4m.files import write_json
from open4m.hub.published import model_config, to_published
from open4m.modalities.registry import get_modality
from open4m.model import FourM

LAYOUTS = Path(__file__).parent.parent / "tests" / "golden" / "published_layouts"
PREFIX = "4M_tokenizers_"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(
    out: Path,
    layouts: Path = LAYOUTS,
    model: str = "4M-21_B",
    dtype: str = "fp16",
    photo: Path | None = None,
    to: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> None:
    """Write the folders that are missing, generate, check, and print what it took.

    Args:
        out: scratch folder.
        layouts: folder of ``fm_*.json`` and ``tokenizer_*.json`` (configuration, keys, shapes).
        model: which of them, such as 4M-21_B.
        dtype: of the stored weights: fp32, bf16, fp16.
        photo: default: the astronaut of scikit-image.
        to: modalities to generate; default all.
        options: further words for ``open4m generate``, such as --fit letterbox.
    """
    write_everything(out, layouts, model, DTYPES[dtype])
    photo = photo or astronaut(out / "photo.jpg")
    results = out / "results"
    words = ["generate", str(photo), "--model", str(out / model), "--out", str(results), *options]
    words += ["--to", *to] if to else []
    started = time.perf_counter()
    seconds, peak = run([sys.executable, "-m", "open4m.cli", *words])
    print(f"open4m {' '.join(words)}")
    for name, shape in shapes(results):
        print(f"  {name}: {shape}")
    print(f"{time.perf_counter() - started:.0f} s, of which {seconds:.0f} s of processor time; peak {peak:.1f} GB")
    print(f"page: {results / 'index.html'}")


def write_everything(out: Path, layouts: Path, model: str, dtype: torch.dtype) -> None:
    """The model's folder, and a folder per tokenizer beside it, as they are called on the hub."""
    if not (out / model / "config.json").exists():
        layout = _layout(layouts / f"fm_{model.replace('4M', '4m')}.json")
        config = model_config(layout["config"], model)
        weights = to_published(FourM(config, seed=0).state_dict(), config)
        _write(out / model, layout["config"], {key: value.to(dtype) for key, value in weights.items()}, layout)
        _link_text(out / model)
    for path in sorted(layouts.glob("tokenizer_*.json")):
        layout = _layout(path)
        folder = out / f"{PREFIX}{path.stem.removeprefix('tokenizer_')}"
        if "state_dict" in layout and not (folder / "config.json").exists():
            generator = torch.Generator().manual_seed(len(path.stem))
            weights = {key: _random(key, shape, generator) for key, shape, _ in layout["state_dict"]}
            stored = {k: v if k.startswith("quantize.") else v.to(dtype) for k, v in weights.items()}
            _write(folder, layout["config"], stored, layout)


def _layout(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], layout: dict[str, Any]) -> None:
    expected = {key: list(shape) for key, shape, _ in layout["state_dict"]}
    found = {key: list(value.shape) for key, value in weights.items()}
    if found != expected:
        raise SystemExit(f"{folder.name}: keys or shapes differ from the layout.")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    write_json(folder / "config.json", config)
    print(f"wrote {folder}: {sum(v.nbytes for v in weights.values()) / 1e9:.2f} GB", flush=True)


def _random(key: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    """Numbers that keep activations finite: unit norms, small matrices, unit codes."""
    if "embed" in key and key.startswith("quantize."):
        return torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    if key.endswith(("initted", "cluster_size")):
        return torch.ones(shape)
    if len(shape) < 2:
        return torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
    return torch.randn(shape, generator=generator) * min(0.02 * (768 / shape[-1]) ** 0.5, 0.1)


def _link_text(folder: Path) -> None:
    """The published text tokenizer, where its path is given; else it is fetched by ``open4m`` itself."""
    path = os.environ.get("OPEN4M_TEXT_TOKENIZER")
    if path:
        (folder / "text_tokenizer_4m_wordpiece_30k.json").write_bytes(Path(path).read_bytes())


def astronaut(path: Path) -> Path:
    """A real photograph: Eileen Collins (NASA, public domain), as shipped with scikit-image."""
    from skimage.data import astronaut as photograph

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph()).save(path, quality=95)
    return path


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; its processor time in seconds and its peak memory in GB."""
    process = os.spawnv(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"failed with status {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def shapes(folder: Path) -> Iterator[tuple[str, str]]:
    """(modality, shape or summary) of every value in a folder; reading checks them, and noise may be no value."""
    plan = _layout(folder / "plan.json")["plan"]
    for name in plan["requested"]:
        modality = get_modality(name)
        try:
            value = modality.decode((folder / f"{name}.{modality.extensions[0]}").read_bytes(), name)
        except ModalityError as error:
            yield name, f"no value: {error}"
            continue
        yield name, str(value.shape) if isinstance(value, np.ndarray) else modality.describe(value, predicted=True)


if __name__ == "__main__":
    tyro.cli(main)
