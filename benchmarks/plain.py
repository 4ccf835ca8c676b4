"""Generation as the reference runs it, written for clarity: what the fast paths must equal, and are measured against.

The whole encoder runs again for every target and step; guidance is one pass after the other; a sequence recomputes its
whole prefix, and the logits of all its positions, for every word; attention is matmul, mask, softmax, matmul (spec:
generation §3 and §4; model §4). Weights and embeddings are those of :class:`FourM`, choices and random numbers those of
:mod:`open4m.generation`, so that both sides decide the same wherever their logits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from open4m.batch import TokenTargets
from open4m.generation.canvas import Canvas, grid_targets, span_bounds
from open4m.generation.decoding import QUESTIONS, Candidates, draw, most_confident, perturbed, random_order
from open4m.generation.grammar import Grammar, grammar_of
from open4m.generation.passes import Views
from open4m.generation.plan import Plan, TargetPlan
from open4m.generation.sampling import Sampler, uniforms
from open4m.modalities.registry import get_modality
from open4m.model import FourM
from open4m.model.attention import merge_heads, split_heads
from open4m.model.blocks import DecoderBlock, EncoderBlock
from open4m.tokenizers.text import TextTokenizer


@torch.inference_mode()
def generate(plan: Plan, canvas: Canvas, model: FourM, seeds: Sequence[int], text: TextTokenizer) -> Canvas:
    """Inputs and all targets, each on the inputs and those before it that it sees."""
    state = canvas
    for target in plan.targets:
        seen = canvas
        for name in target.sees:
            seen = seen.adopt(name, state)
        state = state.adopt(target.stream, _target(target, seen, model, seeds, text))
    return state


def _target(target: TargetPlan, canvas: Canvas, model: FourM, seeds: Sequence[int], text: TextTokenizer) -> Canvas:
    assert target.repeats == 1
    if not target.is_sequence:
        return fill(target, canvas, model, seeds)
    grammar = grammar_of(get_modality(target.modality), text) if target.grammar else None
    start = canvas.opened(target.stream)
    written = write(target, start, model, seeds, grammar)
    given = [start.sequence(target.stream, row) for row in range(start.batch)]
    return start.with_sequences(target.stream, list(map(text.merge_spans, given, written)))


# -- grids ------------------------------------------------------------------------------------------------------------
def fill(target: TargetPlan, canvas: Canvas, model: FourM, seeds: Sequence[int]) -> Canvas:
    """MaskGIT or ROAR."""
    stream = target.stream
    in_order = random_order(seeds, stream, canvas.spec(stream).max_tokens)
    for number, step in enumerate(target.grid_steps(canvas.open_positions(stream).shape[1])):
        positions = canvas.open_positions(stream)
        if target.scheme == "roar":
            positions = in_order(Candidates(number, step.count, positions))
        logits = grid_logits(model, Views.of(canvas, target.guidance, target.conditions), stream, positions)
        ids, confidence = draw(logits, step.sampler, seeds, stream, number, positions)
        if target.scheme == "maskgit":
            confidence = perturbed(confidence, step.noise, seeds, stream, number, positions)
            kept = most_confident(Candidates(number, step.count, positions, ids, confidence))
            everywhere = torch.zeros(len(ids), canvas.spec(stream).max_tokens, dtype=torch.int64)
            ids, positions = everywhere.scatter(1, positions, ids).gather(1, kept), kept
        canvas = canvas.fix(stream, positions, ids)
    return canvas


@torch.inference_mode()
def grid_logits(model: FourM, views: Views, stream: str, positions: Tensor) -> Tensor:
    """Mixed logits (B, K, V) float32 at positions (B, K) of one stream: encoder and decoder once for every view."""
    targets = grid_targets([(model.config.index(stream), positions)], model.mask_token.device)
    passes = [model.logits(decode(model, targets, encode(model, view)), stream).float() for view in views.canvases]
    return views.mix(torch.stack(passes))


# -- sequences --------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def write(
    target: TargetPlan, canvas: Canvas, model: FourM, seeds: Sequence[int], grammar: Grammar | None = None
) -> list[list[int]]:
    """Ids of every sample, from the first sentinel on; all rows go on until the last one is finished."""
    stream, limit = target.stream, target.tokens - 1
    views = Views.of(canvas, target.guidance, target.conditions)
    contexts = [encode(model, view) for view in views.canvases]
    given = [canvas.sequence(stream, row) for row in range(canvas.batch)]
    starts, stops = zip(*(span_bounds(ids, stream) for ids in given), strict=True)
    sentences = [None if grammar is None else grammar.begin(ids, stop) for ids, stop in zip(given, stops, strict=True)]
    rows, uniform = [[start] for start in starts], uniforms(seeds, stream, 0, limit)
    for step in range(limit):
        prefix = _prefix(model.config.index(stream), rows)
        logits = views.mix(torch.stack([model.logits(decode(model, prefix, c), stream).float() for c in contexts]))
        for row, sentence in enumerate(sentences):
            if rows[row][-1] == stops[row] and step:
                continue
            sampler, last = target.sampler, logits[row, -1]
            if sentence is not None:
                ids, question = sentence.allowed(limit - step)
                last = torch.full_like(last, -torch.inf).index_copy(0, ids, last[ids])
                sampler = QUESTIONS if question else sampler
            rows[row].append(_one(sampler, last, uniform[row, step]))
            if sentence is not None:
                sentence.write(rows[row][-1])
        if all(row[-1] == stop for row, stop in zip(rows, stops, strict=True)):
            break
    return rows


def _one(sampler: Sampler, logits: Tensor, uniform: Tensor) -> int:
    return int(sampler(logits[None], uniform[None])[0])


def _prefix(index: int, rows: list[list[int]]) -> TokenTargets:
    """All words so far; the shorter, finished rows are padded."""
    token = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    valid = torch.arange(token.shape[1])[None] < torch.tensor([len(row) for row in rows])[:, None]
    # Finished rows are no longer read: padding at their end does no harm, and their last position is their own.
    order = torch.arange(token.shape[1]).expand_as(token)
    return TokenTargets(torch.full_like(token, index), order, token, token, order, valid)


# -- the network ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Context:
    """What the decoder sees: states (B, N, D) and which of them are no padding (B, N)."""

    states: Tensor
    valid: Tensor


def encode(model: FourM, canvas: Canvas) -> Context:
    """Everything visible through the whole encoder."""
    inputs = canvas.inputs(model.mask_token.device)
    content, place = model.embed_inputs(inputs)
    x, seen = content + place, inputs.valid[:, None, None, :]
    for block in model.encoder:
        x = _encoder_block(cast(EncoderBlock, block), x, seen)
    return Context(model.decoder_proj_context(model.encoder_norm(x)) + place, inputs.valid)


def decode(model: FourM, targets: TokenTargets, context: Context) -> Tensor:
    """Hidden states (B, M, D) of the decoder."""
    y, seen = model.embed_targets(targets), context.valid[:, None, None, :]
    own = (targets.order[:, None, :] <= targets.order[:, :, None])[:, None]  # one stream: only the order counts
    for block in model.decoder:
        y = _decoder_block(cast(DecoderBlock, block), y, context.states, own, seen)
    return model.decoder_norm(y)


def _encoder_block(block: EncoderBlock, x: Tensor, seen: Tensor) -> Tensor:
    x = x + block.attn.proj(attention(*block.attn.project(block.norm1(x)), seen))
    return x + block.mlp(block.norm2(x))


def _decoder_block(block: DecoderBlock, y: Tensor, context: Tensor, own: Tensor, seen: Tensor) -> Tensor:
    y = y + block.self_attn.proj(attention(*block.self_attn.project(block.norm1(y)), own))
    cross, past = block.cross_attn, block.cross_attn.project(block.context_norm(context))
    (q,) = split_heads(cross.q(block.query_norm(y)), cross.heads, 1)
    y = y + cross.proj(attention(cross.q_norm(q).to(past.values.dtype), past.keys, past.values, seen))
    return y + block.mlp(block.norm2(y))


def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention of (B, H, M, K) to (B, H, N, K) where ``seen`` (B, 1, 1 or M, N) → (B, M, H·K)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return merge_heads(scores.softmax(dim=-1) @ v)
