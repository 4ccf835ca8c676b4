"""The transformer computes what the published implementation computes, from its own checkpoint files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import golden
from reference_batch import read_mod_dict, token_batch
from safetensors.torch import load_file
from torch import Tensor

from open4m.batch import TokenBatch
from open4m.hub.published import from_published, model_config, to_published
from open4m.model import FourM, ModelConfig, StreamPrediction, masked_loss
from open4m.model.attention import target_mask
from open4m.model.embeddings import group_rows
from open4m.weights import header_config

CASES = ("fm_mod21_swiglu", "fm_qknorm", "fm_gelu_bias")


class Case(NamedTuple):
    folder: Path
    config: ModelConfig
    model: FourM
    batch: TokenBatch
    expected: dict[str, Tensor]
    numbers: dict[str, Any]


@cache
def load(name: str) -> Case:
    folder = golden(name)
    config = model_config(json.loads((folder / "config.json").read_text()), str(folder))
    model = FourM(config)
    model.load_weights(from_published(load_file(folder / "model.safetensors"), config), dtype=torch.float32)
    numbers = json.loads((folder / "expected.json").read_text())
    mods = read_mod_dict(folder / "batch.safetensors")
    batch = token_batch(mods, config, numbers["num_encoder_tokens"], numbers["num_decoder_tokens"])
    return Case(folder, config, model, batch, load_file(folder / "expected.safetensors"), numbers)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return load(request.param)


def close(found: Tensor, expected: Tensor, atol: float = 1e-4, rtol: float = 0.0) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


@torch.no_grad()
def test_encoder(case: Case) -> None:
    inputs = case.batch.inputs
    blocked = case.expected["encoder_mask"][:, 0]
    assert torch.equal(inputs.valid, ~blocked)
    ids = torch.tensor([spec.published_id for spec in case.config.streams])
    found_ids = torch.where(inputs.valid, ids[inputs.stream], -1)
    assert torch.equal(found_ids, case.expected["encoder_mod_ids"].long())
    content, place = case.model.embed_inputs(inputs)
    close(content + place, case.expected["encoder_input"])
    encoded = case.model.encode(inputs)
    close(encoded.states[inputs.valid], case.expected["encoder_output"][~blocked])
    close(encoded.context[inputs.valid], case.expected["decoder_context"][~blocked])


@torch.no_grad()
def test_decoder(case: Case) -> None:
    targets, expected = case.batch.targets, case.expected
    decoder_input = case.model.embed_targets(targets).flatten(0, 1)
    decoder_output = case.model.decode(targets, case.model.encode(case.batch.inputs)).flatten(0, 1)
    present = dict(group_rows(targets.stream, targets.valid, len(case.config.streams)))
    assert {case.config.names[i] for i in present} == {k.split(".")[1] for k in expected if k.startswith("dec.")}
    for index, rows in present.items():
        name = case.config.names[index]
        close(decoder_input[rows], expected[f"dec.{name}.input"])
        close(decoder_output[rows], expected[f"dec.{name}.output"])
    for prediction in case.model(case.batch):
        check_logits(prediction, expected)


def check_logits(prediction: StreamPrediction, expected: dict[str, Tensor]) -> None:
    name, logits = prediction.stream, prediction.logits
    assert torch.equal(prediction.labels, expected[f"dec.{name}.target_ids"])
    at_target = logits.gather(1, prediction.labels[:, None])[:, 0]
    close(at_target, expected[f"dec.{name}.logit_at_target"])
    close(logits.logsumexp(1), expected[f"dec.{name}.logsumexp"])
    close(logits[:, ::101], expected[f"dec.{name}.logits_every_101st"])
    close(logits[0], expected[f"dec.{name}.logits_first_token_full"])
    top = logits.topk(5)
    assert torch.equal(top.indices, expected[f"dec.{name}.top5_ids"])
    close(top.values, expected[f"dec.{name}.top5_values"])


@pytest.mark.parametrize("reduction", ["mod", "token"])
def test_losses(case: Case, reduction: Any) -> None:
    with torch.no_grad():
        loss = masked_loss(case.model(case.batch), [s.name for s in case.config.targets], reduction)
    close(loss.total, torch.tensor(case.numbers["loss"][reduction]), atol=0.0, rtol=1e-5)
    for name, value in case.numbers["mod_loss"].items():
        close(loss.per_stream.get(name, torch.tensor(0.0)), torch.tensor(value), atol=1e-6, rtol=1e-5)
    per_sample = case.numbers["targets_per_modality"]
    assert loss.counts == {name: sum(counts) for name, counts in per_sample.items() if sum(counts)}


def test_gradients(case: Case) -> None:
    case.model.zero_grad()
    masked_loss(case.model(case.batch), [s.name for s in case.config.targets]).total.backward()
    gradients = {k: p.grad if p.grad is not None else torch.zeros_like(p) for k, p in case.model.named_parameters()}
    published = to_published(gradients, case.config)
    checked = 0
    for key, value in load_file(case.folder / "expected_grads.safetensors").items():
        close(published[key.removeprefix("grad.")], value, rtol=1e-3)
        checked += 1
    for key, norm in case.numbers["grad_norm_embeddings"].items():
        close(published[key].norm(), torch.tensor(norm), rtol=1e-3)
    for key in case.numbers["parameters_without_grad"]:
        assert not published[key].any(), key
    assert checked > 40


@torch.no_grad()
def test_decoder_mask_equals_the_compressed_mask(case: Case) -> None:
    targets = case.batch.targets
    mask = target_mask(targets)
    assert mask is not None
    ids = torch.tensor([spec.published_id for spec in case.config.streams])
    order_ids = case.expected["decoder_mod_ids_order_seed0"].long()
    blocked = case.expected["decoder_self_attention_mask_order_seed0"]
    for b, valid in enumerate(targets.valid):
        for name in case.numbers["targets_per_modality"]:
            ours = (valid & (ids[targets.stream[b]] == ids[case.config.index(name)])).nonzero().flatten()
            theirs = (order_ids[b] == ids[case.config.index(name)]).nonzero().flatten()
            assert len(ours) == len(theirs)
            assert torch.equal(mask.allowed[b, 0][ours][:, ours], ~blocked[b][theirs][:, theirs])
            assert mask.allowed[b, 0][ours].sum() == (~blocked[b][theirs]).sum()


def test_conversion_is_bit_identical_both_ways(case: Case) -> None:
    stored = load_file(case.folder / "model.safetensors")
    back = to_published(from_published(stored, case.config), case.config)
    for key, value in stored.items():
        assert back[key].dtype == value.dtype
        assert torch.equal(back[key], value), key
    added = set(back) - set(stored)
    assert all(key.endswith(".mod_emb") for key in added)


def test_header_carries_the_configuration() -> None:
    folder = golden("fm_gelu_bias")
    from_header = header_config(folder / "model.safetensors")
    assert model_config(from_header, "header") == load("fm_gelu_bias").config
