"""A transformer in the published format: encoder, decoder, logits, both losses, gradients (golden: ``fm_*``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from open4m.batch import TokenBatch, TokenInputs, TokenTargets
from open4m.errors import CheckpointError
from open4m.hub.bundle import load_bundle
from open4m.hub.published import from_published, is_published, model_config, to_published
from open4m.model import FourM, StreamPrediction, masked_loss
from open4m.model.attention import target_mask
from open4m.model.embeddings import group_rows
from open4m.verify.batch import read_mod_dict, token_batch
from open4m.verify.options import Options
from open4m.verify.recorded import Entries, Recorded
from open4m.verify.report import Report
from open4m.weights import CONFIG, WEIGHTS, header_config


def check_transformer(folder: Recorded, options: Options, report: Report) -> None:
    """Load the checkpoint as it is stored, run it on the recorded batch, and compare."""
    model = load_bundle(folder.path, options.dtype, options.device).model
    numbers, expected = folder.json("expected.json"), folder.tensors("expected.safetensors")
    mods = read_mod_dict(folder.tensors("batch.safetensors"))
    sizes = numbers["num_encoder_tokens"], numbers["num_decoder_tokens"]
    batch = token_batch(mods, model.config, *sizes).to(options.device)
    _check_files(folder, model, report)
    with torch.no_grad():
        _check_encoder(model, batch.inputs, expected, report)
        _check_decoder(model, batch, expected, report)
        _check_decoder_mask(model, batch.targets, expected, numbers, report)
        _check_losses(model, batch, numbers, report)
    _check_gradients(model, batch, folder, numbers, report)


def _check_files(folder: Recorded, model: FourM, report: Report) -> None:
    """The published keys come back bit by bit, and a configuration in the header says what ``config.json`` says."""
    stored = folder.tensors(WEIGHTS)
    back = to_published(from_published(stored.whole(), model.config), model.config)
    for key, value in stored.whole().items():
        report.equal("published keys and back", back[key], value, key)
    added = [key for key in back if key not in stored and not key.endswith(".mod_emb")]
    report.equal("published keys and back", added, [], "keys that are not in the file")
    try:
        header = header_config(folder.path / WEIGHTS)
    except CheckpointError:
        return
    if is_published(header) and folder.has(CONFIG):
        report.equal("configuration in the header", model_config(header, WEIGHTS), model.config)


def _published_ids(model: FourM, items: TokenInputs | TokenTargets) -> Tensor:
    """(B, N) labels of the streams in the published models, -1 for padding."""
    ids = torch.tensor([spec.published_id for spec in model.config.streams], device=items.stream.device)
    return torch.where(items.valid, ids[items.stream], -1)


def _check_encoder(model: FourM, inputs: TokenInputs, expected: Entries, report: Report) -> None:
    visible = ~expected["encoder_mask"][:, 0]
    report.equal("encoder mask", inputs.valid, visible)
    report.equal("encoder mask", _published_ids(model, inputs), expected["encoder_mod_ids"], "encoder_mod_ids")
    content, place = model.embed_inputs(inputs)
    encoded = model.encode(inputs)
    report.close("encoder input", content + place, expected["encoder_input"], "states")
    for item, key, found in (
        ("encoder states", "encoder_output", encoded.states),
        ("decoder context", "decoder_context", encoded.context),
    ):
        report.close(item, found[inputs.valid], expected[key][visible], "states")


def _check_decoder(model: FourM, batch: TokenBatch, expected: Entries, report: Report) -> None:
    targets, names = batch.targets, model.config.names
    inputs = model.embed_targets(targets).flatten(0, 1)
    outputs = model.decode(targets, model.encode(batch.inputs)).flatten(0, 1)
    present = dict(group_rows(targets.stream, targets.valid, len(names)))
    recorded = {key.split(".")[1] for key in expected if key.startswith("dec.")}
    report.equal("target streams", sorted(names[index] for index in present), sorted(recorded))
    for index, rows in present.items():
        name = names[index]
        if name in recorded:
            report.close("decoder input", inputs[rows], expected[f"dec.{name}.input"], "states", name)
            report.close("decoder output", outputs[rows], expected[f"dec.{name}.output"], "states", name)
    for prediction in model(batch):
        if prediction.stream in recorded:
            _check_logits(prediction, expected, report)


def _check_logits(prediction: StreamPrediction, expected: Entries, report: Report) -> None:
    item, logits = f"logits {prediction.stream}", prediction.logits.float()
    wanted = expected.below(f"dec.{prediction.stream}")
    top = logits.topk(5)
    report.equal("target ids", prediction.labels, wanted["target_ids"], prediction.stream)
    report.equal("likeliest ids", top.indices, wanted["top5_ids"], prediction.stream)
    found = {
        "logit_at_target": logits.gather(1, prediction.labels[:, None])[:, 0],
        "logsumexp": logits.logsumexp(1),
        "logits_every_101st": logits[:, ::101],
        "logits_first_token_full": logits[0],
        "top5_values": top.values,
    }
    for part, value in found.items():
        report.close(item, value, wanted[part], "states", part)


def _check_decoder_mask(model: FourM, targets: TokenTargets, expected: Entries, numbers: Any, report: Report) -> None:
    """Who sees whom equals the compressed mask that the reference built for one order of the modalities."""
    mask, ours_ids = target_mask(targets), _published_ids(model, targets)
    allowed = torch.ones(1, 1, *[ours_ids.shape[1]] * 2, dtype=torch.bool) if mask is None else mask.allowed
    allowed = allowed.expand(len(ours_ids), -1, -1, -1)
    theirs_ids, blocked = expected["decoder_mod_ids_order_seed0"], expected["decoder_self_attention_mask_order_seed0"]
    for b, (seen, hidden) in enumerate(zip(allowed[:, 0].cpu(), blocked, strict=True)):
        for name in numbers["targets_per_modality"]:
            stream = model.config.stream(name).published_id
            ours, theirs = ((ids[b] == stream).nonzero().flatten().cpu() for ids in (ours_ids, theirs_ids))
            part = f"{name} of sample {b}"
            report.equal("decoder mask", seen[ours][:, ours], ~hidden[theirs][:, theirs], part)
            report.equal("decoder mask", int(seen[ours].sum()), int((~hidden[theirs]).sum()), part)


def _check_losses(model: FourM, batch: TokenBatch, numbers: Any, report: Report) -> None:
    predictions, targets = model(batch), [spec.name for spec in model.config.targets]
    for reduction in ("mod", "token"):
        total = masked_loss(predictions, targets, reduction).total
        report.close(f"loss {reduction}", total, torch.tensor(numbers["loss"][reduction]), "losses")
    loss = masked_loss(predictions, targets)
    for name, value in numbers["mod_loss"].items():
        found = loss.per_stream.get(name, torch.tensor(0.0))
        report.close("losses of the streams", found, torch.tensor(value), "losses", name)
    counts = {name: sum(samples) for name, samples in numbers["targets_per_modality"].items() if sum(samples)}
    report.equal("numbers of targets", loss.counts, counts)


def _check_gradients(model: FourM, batch: TokenBatch, folder: Recorded, numbers: Any, report: Report) -> None:
    """Gradients of the ``mod`` loss, under the published names; of vocabulary tables the norms."""
    model.zero_grad()
    masked_loss(model(batch), [spec.name for spec in model.config.targets]).total.backward()
    gradients = {k: p.grad if p.grad is not None else torch.zeros_like(p) for k, p in model.named_parameters()}
    published = Entries(to_published(gradients, model.config).items(), folder.path / WEIGHTS)
    expected = folder.tensors("expected_grads.safetensors")
    for key in expected:
        name = key.removeprefix("grad.")
        report.close("gradients", published[name], expected[key], "gradients", name)
    for key, norm in numbers["grad_norm_embeddings"].items():
        report.close("gradient norms of tables", published[key].norm(), torch.tensor(norm), "gradients", key)
    for key in numbers["parameters_without_grad"]:
        report.equal("parameters without gradient", int(published[key].count_nonzero()), 0, key)
