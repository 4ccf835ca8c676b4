"""The text tokenizer, and masking where chance plays no part (golden: ``text``, ``masking``)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from open4m.data.masking import mask_sequence, span_mask, to_units
from open4m.data.mixture import Keep
from open4m.hub.text import published_text
from open4m.tokenizers.text import COORDINATES, SENTINEL_IDS, TextTokenizer
from open4m.verify.options import Options
from open4m.verify.recorded import Recorded
from open4m.verify.report import Report


def check_text(folder: Recorded, options: Options, report: Report) -> None:
    """Ids and decoded strings of the published vocabulary; merging of spans."""
    text, recorded = TextTokenizer.load(published_text(options.text_tokenizer)), folder.json("text.json")
    report.equal("vocabulary", text.vocab_size, recorded["vocab_size"], "size")
    for word, expected in recorded["special"].items():
        if expected is not None:
            report.equal("vocabulary", text.encode(word), [expected], word)
    for number, example in enumerate(recorded["examples"]):
        kind, part = example["kind"], f"example {number}"
        report.equal(f"ids {kind}", text.encode(example["text"]), example["ids"], part)
        report.equal(f"words {kind}", text.decode(example["ids"]), example["decoded"], part)
    for words, expected in zip(recorded["metadata_chunks"], recorded["metadata_chunk_ids"], strict=True):
        report.equal("ids metadata", text.encode(words), expected, words)
    for number, case in enumerate(recorded["merge_span_masking"]):
        merged = text.merge_spans(case["input"], case["decoder"])
        report.equal("merging of spans", merged, case["merged"], f"case {number}")


def check_masking(folder: Recorded, options: Options, report: Report) -> None:
    """Span masking for given patterns, and whole outcomes of sequence masking; statistics are not recomputed."""
    del options  # neither weights nor words: masking looks at the fixed ids only, which any vocabulary has
    text, recorded = fixed_words(), folder.json("masking.json")
    for number, case in enumerate(recorded["span_masking"]):
        units = [[unit] if isinstance(unit, int) else unit for unit in case["sequence"]]
        found = span_mask(units, ~np.array(case["masked"], bool), text)
        report.equal("span masking", list(found), [case["input"], case["target"]], f"case {number}")
    words: dict[str, int] = {}
    for number, case in enumerate(recorded["sequence_mask"]):
        tensor, masks = case["tensor"], (case["input_mask"], case["target_mask"])
        visible, target = ([i for i, hidden in zip(tensor, mask, strict=True) if not hidden] for mask in masks)
        units = to_units(_ids(case["text"], [*visible, *target], words, text), text, case["max_tokens"])
        budgets, keep = (case["input_budget"], case["target_budget"]), Keep(case["keep_scheme"])
        found = mask_sequence(units, *budgets, keep, text, np.random.default_rng(0))
        report.equal("sequence masking", list(found), [visible, target], f"case {number}")
    report.unread += [f"masking.json: {key}" for key, value in recorded.items() if isinstance(value, dict)]


@cache
def fixed_words() -> TextTokenizer:
    """A vocabulary of hardly more than the special words, whose ids are the same in every vocabulary."""
    return TextTokenizer.train(["a"])


def _ids(words: str | list[str], recorded: list[int], known: dict[str, int], text: TextTokenizer) -> Any:
    """Ids of chunks of special words; of a plain text word by word, as they stand in this or an earlier outcome.

    Words that were cut off from every outcome count as unknown.
    """
    if not isinstance(words, str):
        return [text.encode(chunk) for chunk in words]
    found = [token for token in recorded if token >= len(COORDINATES) + len(SENTINEL_IDS)]
    for word, token in zip(words.split(), found, strict=False):
        known.setdefault(word, token)
    return [known.get(word, text.unk) for word in words.split()]
