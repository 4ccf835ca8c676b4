"""Codebooks: nearest codes, EMA, revival of dead codes, late start, expected codes, memory codes, two ranks."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.testing import assert_close

from open4m.tokenizers import quantizers
from open4m.tokenizers.quantizers import (
    CosineQuantizer,
    MemoryCodes,
    codebook_usage,
    expectation,
    kmeans,
    nearest,
)

UNIT = {"decay": 0.9, "commitment": 1.0, "norm_latents": True}


def make(size: int = 8, width: int = 4, **options: Any) -> CosineQuantizer:
    torch.manual_seed(0)
    return CosineQuantizer(size, width, **({"dead_below": 0.0, "started": True} | UNIT | options))


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_nearest_is_the_best_code_whatever_the_chunk(count: int, codes: int, chunk: int) -> None:
    latents, table = torch.randn(count, 5), torch.randn(codes, 5)
    whole = nearest(latents, table)
    assert torch.equal(whole, (latents[:, None] * table[None]).sum(-1).argmax(1))
    before = quantizers._CHUNK
    try:
        quantizers._CHUNK = chunk
        assert torch.equal(nearest(latents, table), whole)
    finally:
        quantizers._CHUNK = before


def test_codes_tokenize_to_themselves() -> None:
    quantizer = make(16, 8).eval()
    ids = torch.randint(16, (2, 3, 5))
    assert torch.equal(quantizer.ids(3.0 * quantizer.lookup(ids)), ids)


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_expectation_keeps_the_length_of_the_codes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(6, 5, generator=generator)
    probabilities = torch.rand(3, 6, generator=generator).softmax(-1)
    mean = expectation(probabilities, codes)
    assert_close(mean.norm(dim=-1), probabilities @ codes.norm(dim=-1))
    assert_close(F.cosine_similarity(mean, probabilities @ codes), torch.ones(3))


def test_expected_code_of_a_certain_prediction_is_the_code() -> None:
    cosine, memory = make(8, 4), MemoryCodes(8, 12, heads=3)
    ids = torch.randint(8, (2, 3, 3))
    assert_close(cosine.expected(F.one_hot(ids, 8)), cosine.lookup(ids))
    ids = torch.randint(8, (2, 3, 1, 1))
    assert_close(memory.expected(F.one_hot(ids, 8)), memory.lookup(ids))


def test_a_dead_code_is_revived_and_given_time() -> None:
    quantizer = make(4, 4, dead_below=0.05).train()
    book = quantizer._codebook
    book.embed.copy_(-torch.eye(4))  # nothing will choose the last one
    book.embed[3] = torch.tensor([0.0, 0.0, 0.0, -1.0])
    book.cluster_size.copy_(torch.tensor([5.0, 5.0, 5.0, 0.0]))
    latents = -torch.eye(4)[:3].repeat(8, 1).T.reshape(1, 4, 4, 6)
    quantizer(latents)
    assert_close(book.cluster_size[3], torch.tensor(quantizers.REVIVED_COUNT * 0.05))
    assert (book.embed[3] @ -torch.eye(4)[:3].T).max() == 1  # it is one of the latents now
    moved = book.embed[3].clone()
    quantizer(latents + 0.1)
    assert F.cosine_similarity(book.embed[3], moved, dim=0) > 0.9  # not thrown elsewhere at the next step


def test_without_a_threshold_nothing_is_replaced() -> None:
    quantizer = make(4, 4, dead_below=0.0).train()
    book = quantizer._codebook
    book.embed.copy_(torch.eye(4))
    quantizer(torch.eye(4)[0].view(1, 4, 1, 1).expand(2, 4, 3, 3))
    assert torch.equal(book.embed, torch.eye(4))
    assert torch.equal(book.cluster_size[1:], torch.zeros(3))


def test_kmeans_finds_separate_clusters() -> None:
    torch.manual_seed(0)
    centres = F.normalize(torch.eye(6) + 0.01, dim=-1)
    latents = F.normalize(centres.repeat(50, 1) + 0.01 * torch.randn(300, 6), dim=-1)
    found = kmeans(latents, 24)
    assert (centres @ found.T).max(dim=1).values.min() > 0.99
    with pytest.raises(ValueError, match="at least 301"):
        kmeans(latents, 301)


def test_late_start_passes_latents_until_it_begins() -> None:
    quantizer = make(8, 4, started=False, dead_below=0.1).train()
    latents = torch.randn(2, 4, 5, 5, requires_grad=True)
    codes, loss, ids = quantizer(latents)
    assert ids is None and loss == 0 and not quantizer.started
    assert_close(codes, F.normalize(latents, dim=1))
    quantizer.begin(latents)
    assert quantizer.started
    codes, loss, ids = quantizer(latents)
    assert ids is not None and loss > 0
    assert codebook_usage(ids, 8).used == 1.0
    assert F.cosine_similarity(codes, latents, dim=1).mean() > 0.75


def test_codebook_is_float32_under_autocast() -> None:
    quantizer = make(16, 8).train()
    twin = make(16, 8).train()
    latents = torch.randn(2, 8, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        codes, loss, ids = quantizer(latents)
    want, want_loss, want_ids = twin(latents.float())
    assert codes.dtype == loss.dtype == quantizer._codebook.embed.dtype == torch.float32
    assert torch.equal(codes, want) and torch.equal(loss, want_loss) and torch.equal(ids, want_ids)
    assert torch.equal(quantizer._codebook.embed, twin._codebook.embed)


def test_memory_codes_train_by_gradient() -> None:
    torch.manual_seed(0)
    memory = MemoryCodes(8, 12, heads=3).train()
    latents = torch.randn(4, 12, 1, 1, requires_grad=True)
    codes, loss, ids = memory(latents)
    assert loss == 0 and ids is not None and ids.shape == (4, 3, 1, 1)
    assert_close(codes, memory.lookup(ids))
    codes.square().sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert latents.grad is not None


def test_usage() -> None:
    usage = codebook_usage(torch.tensor([[0, 1], [2, 3]]), 8)
    assert usage.used == 0.5
    assert usage.perplexity == pytest.approx(4.0)
    assert codebook_usage(torch.zeros(10, dtype=torch.long), 8).perplexity == pytest.approx(1.0)


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    steps = load_file(Path(folder) / "latents.safetensors")["latents"].chunk(2, dim=1)[rank]
    for dead_below in (0.0, 0.3):
        quantizer = make(8, 4, dead_below=dead_below).train()
        torch.manual_seed(rank)
        for half in steps:
            quantizer(half)
        save_file(quantizer._codebook.state_dict(), Path(folder) / f"{dead_below}-{rank}.safetensors")
    dist.destroy_process_group()


def test_two_ranks_share_one_codebook(tmp_path: Path) -> None:
    latents = torch.randn(3, 4, 4, 3, 3)  # steps, batch, width, rows, columns
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_rank, (port, str(tmp_path)), nprocs=2)
    plain, reviving = (
        [load_file(tmp_path / f"{dead_below}-{rank}.safetensors") for rank in range(2)] for dead_below in (0.0, 0.3)
    )
    for first, second in (plain, reviving):
        assert all(torch.equal(first[key], second[key]) for key in first)
    alone = make(8, 4).train()
    for step in latents:
        alone(step)
    for key, value in alone._codebook.state_dict().items():
        assert_close(plain[0][key], value)
    assert not torch.equal(plain[0]["embed"], reviving[0]["embed"])  # codes were revived, equally on both ranks
