"""Make the packed folders in here from the original ones: ``python tests/golden/pack.py SOURCE``.

Most bytes of the tiny transformers are rows of vocabulary tables that no recorded batch ever looks up, and pixels of
patches that are not visible. Here they are overwritten by one large constant – a model that did look at them would
fail – and the files are compressed. Of the two samples of the diffusion tokenizer the first is kept. Everything that is
looked up, and every expected output, is bit for bit the same.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

TRANSFORMERS = ("fm_mod21_swiglu", "fm_qknorm", "fm_gelu_bias")
COMPRESSED = ("vq_semseg",)
FIRST_SAMPLE = ("divae_unet",)
UNREAD = 8.0
SPECIAL = range(300)  # sentinels and their like may stand anywhere


def looked_up(batch: dict[str, Tensor], generated: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stream → ids that occur in the batch, or in the recorded generations with these weights."""
    found = {key.removesuffix(".tensor"): value.flatten() for key, value in batch.items() if key.endswith(".tensor")}
    ids = {name: value.long() for name, value in found.items() if not value.is_floating_point()}
    for name in ids:
        parts = [v.flatten() for k, v in generated.items() if v.dtype == torch.int64 and _concerns(k, name)]
        ids[name] = torch.cat([torch.tensor(SPECIAL), ids[name], *parts]).unique()
    return ids


def _concerns(key: str, stream: str) -> bool:
    """Tokens of steps do not say their stream; they are counted for all."""
    return f".{stream}." in key or ".step" in key or key.endswith("generated_ids_before_merge")


def pack(source: Path, target: Path, generated: dict[str, Tensor]) -> None:
    target.mkdir(exist_ok=True)
    for name in ("README.md", "config.json", "expected.json"):
        shutil.copyfile(source / name, target / name)
    numbers = json.loads((source / "expected.json").read_text())
    batch, weights = load_file(source / "batch.safetensors"), load_file(source / "model.safetensors")
    predicted = {name for name, counts in numbers["targets_per_modality"].items() if sum(counts)}
    predicted |= {key.split(".")[1] for key in generated if key.endswith(".tensor")}
    for stream, ids in looked_up(batch, generated).items():
        for side in ("encoder", "decoder"):
            table = weights.get(f"{side}_embeddings.{stream}.token_emb.weight")
            if table is not None:
                grid = side == "decoder" and stream.startswith("tok_")  # the decoder reads the mask token instead
                table[overwritten(len(table), torch.tensor([]).long() if grid else ids)] = UNREAD
        head = weights.get(f"decoder_embeddings.{stream}.to_logits.weight")
        if head is not None and stream not in predicted:
            head[:] = UNREAD
    hide_patches(batch["rgb@224.tensor"], batch["rgb@224.input_mask"])
    with safe_open(source / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    write(target / "model.safetensors", save(weights, metadata))
    write(target / "batch.safetensors", save(batch))
    for name in ("expected.safetensors", "expected_grads.safetensors"):
        write(target / name, (source / name).read_bytes())


def compress(source: Path, target: Path, first_sample: bool) -> None:
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        if first_sample and file.name == "expected.safetensors":
            write(target / file.name, save({key: value[:1].clone() for key, value in load_file(file).items()}))
        elif file.suffix == ".safetensors":
            write(target / file.name, file.read_bytes())
        else:
            shutil.copyfile(file, target / file.name)


def overwritten(rows: int, kept: Tensor) -> Tensor:
    """(rows,) bool, False at ``kept``."""
    return torch.ones(rows, dtype=torch.bool).index_fill(0, kept[kept < rows], False)


def hide_patches(images: Tensor, hidden: Tensor) -> None:
    """Overwrite the patches of 16 pixels that no encoder sees; ``hidden`` (B, N) bool."""
    side = images.shape[-1] // 16
    mask = hidden.unflatten(1, (side, side)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    images.masked_fill_(mask[:, None], UNREAD)


def write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    golden, here = Path(sys.argv[1]), Path(__file__).parent
    for folder in TRANSFORMERS:
        made_with = load_file(golden / "generation" / "expected.safetensors") if "mod21" in folder else {}
        pack(golden / folder, here / folder, made_with)
    for folder in (*COMPRESSED, *FIRST_SAMPLE):
        compress(golden / folder, here / folder, folder in FIRST_SAMPLE)
