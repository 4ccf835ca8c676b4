"""Keys and shapes of the published models, on the meta device; position tables (golden: ``published_layouts``, …)."""

from __future__ import annotations

import re
from typing import Any

import torch

from open4m.hub.published import model_config, published_config, to_published
from open4m.model import FourM
from open4m.model.embeddings import sincos_1d, sincos_2d
from open4m.tokenizers.config import Backbone, TokenizerConfig
from open4m.tokenizers.io import build_tokenizer
from open4m.tokenizers.unet import level_embedding
from open4m.tokenizers.vit import ViTEncoder
from open4m.tokenizers.vit import sincos_2d as tokenizer_sincos_2d
from open4m.verify.options import Options
from open4m.verify.recorded import Recorded
from open4m.verify.report import Report

_TABLE = re.compile(
    r"(?P<kind>fm_1d|fm_2d|vit_2d)\.(?:len(?P<n>\d+)|h(?P<h>\d+)_w(?P<w>\d+))_dim(?P<d>\d+)"
    r"(?:\.bicubic_to_(?P<rows>\d+)x(?P<columns>\d+))?"
)


def check_layouts(folder: Recorded, options: Options, report: Report) -> None:
    """Every configuration gives exactly the recorded keys, shapes and numbers of parameters."""
    del options  # nothing is computed
    for file in sorted(folder.path.glob("*.json")):
        layout = folder.json(file.name)
        if "state_dict" not in layout:
            continue
        if "domains_in" in layout["config"]:
            _check_model(file.stem, layout, report)
        else:
            _check_tokenizer(file.stem, layout, report)


def _check_model(name: str, layout: Any, report: Report) -> None:
    config = model_config(layout["config"], name)
    with torch.device("meta"):
        model = FourM(config)
    _check_keys(name, to_published(model.state_dict(), config), layout, report)
    report.equal(name, sum(p.numel() for p in model.parameters()), layout["parameters"], "parameters")
    embeddings = ("modality_", "encoder_tables", "decoder_tables", "encoder_emb", "decoder_emb", "heads")
    trunk = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(embeddings))
    report.equal(name, trunk, layout["parameters_trunk"], "parameters of the trunk")
    back = published_config(config, layout["config"]["image_size"], layout["config"]["patch_size"])
    report.equal(name, back, {**layout["config"], "mlp_ratio": config.mlp_ratio}, "configuration and back")


def _check_tokenizer(name: str, layout: Any, report: Report) -> None:
    with torch.device("meta"):
        model = build_tokenizer(TokenizerConfig.from_dict(layout["config"], name))
    _check_keys(name, model.state_dict(), layout, report)
    report.equal(name, sum(p.numel() for p in model.parameters()), layout["parameters"], "parameters")
    frozen = sorted(key for key, p in model.named_parameters() if not p.requires_grad)
    report.equal(name, frozen, sorted(layout["non_trainable"]), "parameters that are not trained")
    buffers = sorted(key for key, _ in model.named_buffers())
    report.equal(name, buffers, sorted(layout["buffers"]), "buffers")


def _check_keys(name: str, found: dict[str, torch.Tensor], layout: Any, report: Report) -> None:
    expected = {key: (list(shape), f"torch.{dtype}") for key, shape, dtype in layout["state_dict"]}
    for key in sorted(set(found) | set(expected)):
        ours = (list(found[key].shape), str(found[key].dtype)) if key in found else None
        report.equal(name, ours, expected.get(key), key)


def check_positions(folder: Recorded, options: Options, report: Report) -> None:
    """Sine-cosine tables of the transformer and of the tokenizers, embedding of noise levels."""
    del options  # tables are made on the CPU
    expected = folder.tensors("expected.safetensors")
    for key in expected:
        if key.startswith("unet_timestep.dim"):
            levels = torch.tensor([0, 1, 500, 999])  # as its README says
            report.close(key, level_embedding(levels, int(key.rpartition("dim")[2])), expected[key], "tables")
        match = _TABLE.fullmatch(key)
        table = None if match is None else _table(match)
        if table is not None:
            report.close(key, table, expected[key], "tables")


def _table(match: re.Match[str]) -> torch.Tensor | None:
    """The table that an entry names; None for what open4m does not have: tokenizers start from square tables."""
    kind, width = match["kind"], int(match["d"])
    if kind == "fm_1d":
        return sincos_1d(int(match["n"]), width)[None]
    h, w = int(match["h"]), int(match["w"])
    if kind == "fm_2d":
        # The reference runs the width outermost; read as rows × columns its h × w grid is our w × h.
        return sincos_2d((w, h), width)[None]
    if h != w:
        return None
    if not match["rows"]:
        return tokenizer_sincos_2d(width, h)
    grid = int(match["rows"]), int(match["columns"])
    encoder = ViTEncoder(Backbone("ViT", 0, width), channels=1, patch=1, grid=h, post_mlp=False)
    return encoder.trunk(torch.zeros(1, width, *grid)).transpose(1, 2).unflatten(2, grid)
