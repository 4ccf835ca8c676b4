"""FourM: selection, padding, independence of streams, roles, weights."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import STREAMS, random_batch, take, tiny_model

from open4m.batch import TokenBatch, TokenTargets
from open4m.errors import CheckpointError, DataError, UnknownNameError
from open4m.model import FourM, masked_loss
from open4m.model.embeddings import group_rows, scatter_rows


@torch.no_grad()
def logits(model: FourM, batch: TokenBatch) -> dict[str, torch.Tensor]:
    return {p.stream: p.logits for p in model(batch)}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_grouping_is_undone_by_scattering(seed: int, lengths: list[int]) -> None:
    batch = random_batch(seed, lengths, [max(n, 1) for n in lengths])
    items = batch.targets
    values = torch.randn(*items.stream.shape, 3)
    groups = group_rows(items.stream, items.valid, len(STREAMS))
    back = scatter_rows([(rows, values.flatten(0, 1)[rows]) for _, rows in groups], items.stream, 3, torch.float32)
    assert torch.equal(back, values * items.valid[..., None])
    for index, rows in groups:
        assert (items.stream.flatten()[rows] == index).all()
        assert (rows.diff() > 0).all()


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000))
def test_padding_changes_nothing(seed: int) -> None:
    model, batch = tiny_model(), random_batch(seed, [9, 3], [8, 5])
    alone = TokenBatch(batch.streams, *_cut(take(batch, [1]), 3, 5))
    padded = take(batch, [1])
    for name, value in logits(model, alone).items():
        torch.testing.assert_close(value, logits(model, padded)[name], atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_samples_behind_each_other_are_encoded_and_decoded_as_padded_ones(seed: int, lengths: list[int]) -> None:
    model, batch = tiny_model(), random_batch(seed, lengths, [3] * len(lengths))
    inputs = batch.inputs
    padded = model.encode(inputs, layers=(0, 1))  # gradients are wanted: samples are padded
    with torch.no_grad():
        packed = model.encode(inputs, layers=(0, 1))
    for found, wanted in ((packed.states, padded.states), *((packed.layers[n], padded.layers[n]) for n in (0, 1))):
        torch.testing.assert_close(found[inputs.valid], wanted[inputs.valid], atol=1e-5, rtol=1e-5)
    wanted = model.decode(batch.targets, padded)
    with torch.no_grad():
        alike = replace(padded, context=padded.context.detach())
        torch.testing.assert_close(model.decode(batch.targets, alike), wanted, atol=1e-5, rtol=1e-5)


def _cut(batch: TokenBatch, inputs: int, targets: int):
    i, t = batch.inputs, batch.targets
    return (
        replace(
            i,
            stream=i.stream[:, :inputs],
            position=i.position[:, :inputs],
            token=i.token[:, :inputs],
            valid=i.valid[:, :inputs],
        ),
        replace(
            t,
            stream=t.stream[:, :targets],
            position=t.position[:, :targets],
            token=t.token[:, :targets],
            label=t.label[:, :targets],
            order=t.order[:, :targets],
            valid=t.valid[:, :targets],
        ),
    )


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000))
def test_order_of_the_items_changes_nothing(seed: int) -> None:
    model, batch = tiny_model(), random_batch(seed, [9], [10])
    shuffle = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    i = batch.inputs
    mixed = replace(
        i,
        stream=i.stream[:, shuffle],
        position=i.position[:, shuffle],
        token=i.token[:, shuffle],
        valid=i.valid[:, shuffle],
    )
    for name, value in logits(model, batch).items():
        torch.testing.assert_close(value, logits(model, replace(batch, inputs=mixed))[name], atol=1e-5, rtol=1e-5)


def test_targets_of_different_streams_do_not_see_each_other() -> None:
    model, batch = tiny_model(), random_batch(5, [6], [14])
    together = logits(model, batch)
    assert len(together) > 2
    for name, expected in together.items():
        only = batch.targets.valid & (batch.targets.stream == model.config.index(name))
        alone = replace(batch, targets=replace(batch.targets, valid=only))
        assert list(logits(model, alone)) == [name]
        torch.testing.assert_close(logits(model, alone)[name], expected, atol=1e-5, rtol=1e-5)


def test_sequences_are_causal_and_grids_ignore_ids() -> None:
    model, batch = tiny_model(), random_batch(2, [6], [24])
    t = batch.targets
    changed = replace(t, token=torch.where(t.position >= 5, (t.token + 1) % 9, t.token))
    hidden = [model.decode(x, model.encode(batch.inputs)) for x in (t, changed)]
    sequence = torch.tensor([s.name in ("caption", "det") for s in STREAMS])[t.stream]
    later = sequence & (t.position >= 5)
    assert later.any()
    torch.testing.assert_close(hidden[0][~later], hidden[1][~later], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(hidden[0][later], hidden[1][later])


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}])
def test_decoding_step_by_step_equals_decoding_at_once(changes: dict[str, object]) -> None:
    model, inputs = tiny_model(**changes), random_batch(7, [6, 2, 4], [4, 4, 4]).inputs
    position = torch.arange(7).expand(3, 7)
    ids = torch.randint(1, 20, (3, 7), generator=torch.Generator().manual_seed(0))
    stream = torch.full_like(position, model.config.index("caption"))
    targets = TokenTargets(stream, position, ids, ids, position, torch.ones_like(position, dtype=torch.bool))
    encoded = model.encode(inputs)
    expected = model.decode(targets, encoded)
    cache = model.start_decoding(encoded)
    for i in range(7):
        if i == 4:  # one row is finished
            cache, expected = cache.take(torch.tensor([0, 2])), expected[[0, 2]]
            targets = TokenTargets(*(getattr(targets, f.name)[[0, 2]] for f in fields(targets)))
        step = TokenTargets(*(getattr(targets, f.name)[:, i : i + 1] for f in fields(targets)))
        torch.testing.assert_close(model.decode_next(step, cache)[:, 0], expected[:, i], atol=1e-5, rtol=1e-5)


def test_gradients_in_bf16_point_the_same_way() -> None:
    model, batch = tiny_model(dim=32), random_batch(0, [9, 4], [20, 15])
    names = [spec.name for spec in model.config.targets]
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            masked_loss(model(batch), names).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.995


def test_target_positions_beyond_the_published_limit_count_as_zero() -> None:
    embedding = tiny_model().decoder_embeddings["det"]
    place = embedding.place(torch.tensor([0, 3, 4, 9]))  # type: ignore[operator]
    assert torch.equal(place[2], place[0])
    assert torch.equal(place[3], place[0])
    assert not torch.equal(place[1], place[0])


def test_only_visible_pixels_matter() -> None:
    model, batch = tiny_model(), random_batch(1, [6], [4])
    i = batch.inputs
    patch = torch.tensor([[5]])
    only = replace(i, stream=patch * 0, position=patch, token=patch * 0, valid=patch > 0)
    visible = torch.zeros(1, 3, 16, 16, dtype=torch.bool)
    visible[..., 4:8, 4:8] = True
    noise = torch.where(visible, i.dense["rgb@16"], torch.randn(1, 3, 16, 16))
    other = replace(only, dense={"rgb@16": noise})
    assert torch.equal(model.encode(only).context, model.encode(other).context)
    other.dense["rgb@16"] = torch.where(visible, 0.0, i.dense["rgb@16"])
    assert not torch.equal(model.encode(only).context, model.encode(other).context)


def test_without_any_input_cross_attention_adds_nothing() -> None:
    model, batch = tiny_model(), random_batch(3, [4, 2], [6, 6])
    i = batch.inputs
    empty = replace(
        i,
        stream=i.stream[:, :0], position=i.position[:, :0], token=i.token[:, :0], valid=i.valid[:, :0],
    )  # fmt: skip
    masked = replace(i, valid=torch.zeros_like(i.valid))
    first, second = (logits(model, replace(batch, inputs=x)) for x in (empty, masked))
    with torch.no_grad():
        for block in model.decoder:
            block.cross_attn.proj.weight.zero_()  # type: ignore[union-attr]
    silent = logits(model, batch)
    for name, value in first.items():
        assert torch.isfinite(value).all()
        torch.testing.assert_close(value, second[name], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(value, silent[name], atol=1e-6, rtol=1e-6)


def test_roles_are_checked() -> None:
    model, batch = tiny_model(), random_batch(0, [3], [3])
    pixels = replace(batch.targets, stream=batch.targets.stream * 0)
    with pytest.raises(DataError, match="rgb@16 is no target of this model"):
        model(replace(batch, targets=pixels))
    with pytest.raises(DataError, match="no dense content"):
        model.encode(replace(batch.inputs, stream=batch.inputs.stream * 0, dense={}))
    with pytest.raises(DataError, match="was made for streams"):
        model(replace(batch, streams=("rgb@16",)))
    with pytest.raises(DataError, match="an input of this model"):
        model.logits(torch.zeros(1, 16), "rgb@16")
    with pytest.raises(UnknownNameError, match="Did you mean 'caption'"):
        model.logits(torch.zeros(1, 16), "captions")
    wide = {"rgb@16": torch.zeros(1, 3, 32, 32)}
    with pytest.raises(DataError, match=r"the model expects \(3, 16, 16\)"):
        model.encode(replace(batch.inputs, stream=batch.inputs.stream * 0, dense=wide))


# -- weights -------------------------------------------------------------------------------------------------------
def test_every_parameter_has_one_name_and_is_used() -> None:
    model = tiny_model()
    assert len({id(p) for p in model.parameters()}) == len(model.state_dict())
    assert "encoder_tables.text.weight" in model.state_dict()
    for prediction in model(random_batch(0, [50, 50], [40, 40])):
        prediction.logits.square().mean().backward(retain_graph=True)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_tied_inputs_are_read_from_the_decoders_tables() -> None:
    model, batch = tiny_model(tied_input=True), random_batch(0, [50, 50], [40, 40])
    tables = {name for name in model.state_dict() if "_tables." in name}
    assert tables and all(name.startswith("decoder_tables.") for name in tables)
    before = model.encode(batch.inputs).states
    with torch.no_grad():
        model.decoder_tables["text"].weight.mul_(2)  # type: ignore[operator,union-attr]
    assert not torch.equal(before, model.encode(batch.inputs).states)


def test_initialisation_is_a_function_of_the_seed() -> None:
    first, same, other = (tiny_model(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(v, same[k]) for k, v in first.items())
    assert not torch.equal(first["mask_token"], other["mask_token"])
    assert not torch.equal(
        first["decoder_embeddings.tok_global.pos_emb"], other["decoder_embeddings.tok_global.pos_emb"]
    )


def test_initial_ranges() -> None:
    model = tiny_model(dim=64, tied_output=False)
    state = model.state_dict()
    assert state["encoder.0.attn.qkv.weight"].abs().max() == pytest.approx((6 / 128) ** 0.5, rel=0.02)
    assert state["decoder.0.cross_attn.kv.weight"].abs().max() == pytest.approx((6 / 128) ** 0.5, rel=0.02)
    assert state["heads.caption.weight"].abs().max() == pytest.approx((6 / 84) ** 0.5, rel=0.05)
    assert state["decoder_tables.text.weight"].std() == pytest.approx(0.02, rel=0.15)
    tied = tiny_model(dim=64).state_dict()["decoder_tables.text.weight"]
    assert tied.abs().max() == pytest.approx((6 / 84) ** 0.5, rel=0.05)


def test_meta_models_are_filled_by_loading() -> None:
    source, batch = tiny_model(4), random_batch(0, [5], [5])
    with torch.device("meta"):
        model = FourM(source.config)
    assert all(p.is_meta for p in model.parameters())
    assert not model.trained
    model.load_weights(source.state_dict())
    assert model.trained
    assert all(p.requires_grad for p in model.parameters())
    for name, value in logits(source, batch).items():
        assert torch.equal(value, logits(model, batch)[name])
    with torch.device("meta"):
        fresh = FourM(source.config)
    fresh.materialise("cpu", seed=4)
    assert not fresh.trained
    for name, value in logits(source, batch).items():
        assert torch.equal(value, logits(fresh, batch)[name])


def test_loading_does_not_tie_the_model_to_the_given_tensors() -> None:
    source, model = tiny_model(4), tiny_model(5)
    weights = source.state_dict()
    model.load_weights(weights)
    with torch.no_grad():
        model.mask_token.add_(1.0)
    assert not torch.equal(model.mask_token, source.mask_token)


def test_loading_is_strict() -> None:
    model = tiny_model()
    weights = model.state_dict()
    del weights["mask_token"]
    weights["spare"] = torch.zeros(1)
    weights["encoder_norm.weight"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        model.load_weights(weights)
    for part in ("missing mask_token", "unexpected spare", "encoder_norm.weight has shape (3,), expected (16,)"):
        assert part in str(caught.value)
    assert not model.trained


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"tied_output": False, "gated_mlp": False, "act": "gelu"}])
def test_bf16_is_close_to_fp32(changes: dict[str, object]) -> None:
    model, batch = tiny_model(**changes), random_batch(0, [9, 4], [9, 5])
    expected = logits(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = {p.stream: p.logits for p in model(batch)}
    model.to(torch.bfloat16)
    for name, value in logits(model, batch).items():
        torch.testing.assert_close(value.float(), expected[name], atol=0.1, rtol=0.1)
        torch.testing.assert_close(mixed[name].float(), expected[name], atol=0.1, rtol=0.1)
