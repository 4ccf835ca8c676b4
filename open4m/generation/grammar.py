"""Keeping written sentences well-formed: the ids that the grammar of a modality allows next.

The published models are decoded freely, and what does not parse is dropped afterwards. Small or hot models lose count
(eight pose codes, four corners), which costs whole people and boxes; here such ids are never drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from open4m.modalities.base import TextModality
from open4m.modalities.grammar import AXES, Numbers, Terms
from open4m.tokenizers.text import TextTokenizer

NextTerms = Callable[[Sequence[str], int], Terms | None]
"""See :meth:`open4m.modalities.base.TextModality.next_terms`."""

_ENDLESS = 2**30
_CLOSING = 2
"""Ids behind a sentence: ``[EOS]`` and the sentinel that closes the span."""


@dataclass
class _Node:
    """Where one may be inside a term: ids that may come next, and the term that ends with an id."""

    choices: set[int] = field(default_factory=set)
    complete: dict[int, str] = field(default_factory=dict)

    @cached_property
    def allowed(self) -> Tensor:
        """The choices (n,) int64, ascending."""
        return torch.tensor(sorted(self.choices), dtype=torch.int64)


class Grammar:
    """The sentences of one modality in the ids of one vocabulary.

    Args:
        next_terms: what may follow in terms.
        text: terms ↔ ids. Of two terms of which one begins like the other, only the shorter one is ever completed.
    """

    def __init__(self, next_terms: NextTerms, text: TextTokenizer) -> None:
        self._next_terms, self._text = next_terms, text
        self._nodes: dict[Terms, dict[tuple[int, ...], _Node]] = {}
        vocabulary = text.vocabulary
        self._numbers = [[vocabulary[word] for word in Numbers(axis).words()] for axis in AXES]

    def begin(self, given: Sequence[int], stop: int) -> Sentence | None:
        """The sentence that fills the gap of ``given``; the id ``stop`` closes it.

        None if everything is allowed: free text, several gaps, or a gap in the middle of what belongs together.
        """
        gaps = [place for place, token in enumerate(given) if self._text.is_sentinel(token)]
        if self._next_terms((), 0) is None or len(gaps) != 1:
            return None
        before, after = given[: gaps[0]], list(given[gaps[0] + 1 :])
        sentence, rest = Sentence(self, stop, is_followed=bool(after)), Sentence(self, stop)
        if after[-1:] == [self.eos]:
            after.pop()
        return sentence if sentence.read(before) and rest.read(after) else None

    def terms(self, before: Sequence[str], room: int) -> Terms:
        """What may follow the terms ``before``."""
        terms = self._next_terms(before, room)
        assert terms is not None
        return terms

    def node(self, terms: Terms, begun: tuple[int, ...]) -> _Node:
        """The state after the ids ``begun`` of one of ``terms``."""
        if terms not in self._nodes:
            self._nodes[terms] = self._build(terms)
        return self._nodes[terms][begun]

    @property
    def eos(self) -> int:
        """The id that ends a sentence."""
        return self._text.eos

    def _build(self, terms: Terms) -> dict[tuple[int, ...], _Node]:
        nodes: dict[tuple[int, ...], _Node] = {(): _Node({self.eos} if terms.end else set())}
        for choice in terms.choices:
            if isinstance(choice, Numbers):  # each is one id
                ids = self._numbers[choice.axis][choice.low : choice.high + 1]
                nodes[()].choices.update(ids)
                nodes[()].complete.update(zip(ids, choice.words(), strict=True))
            else:
                self._add(nodes, choice, tuple(self._text.encode(choice)))
        return nodes

    @staticmethod
    def _add(nodes: dict[tuple[int, ...], _Node], word: str, ids: tuple[int, ...]) -> None:
        for length, token in enumerate(ids):
            nodes.setdefault(ids[:length], _Node()).choices.add(token)
        nodes[ids[:-1]].complete[ids[-1]] = word


def _contains(ids: Tensor, token: int) -> bool:
    return bool((ids == token).any())


class Sentence:
    """A sentence that is being written.

    Args:
        grammar: of the sentence.
        stop: the id that comes after its end, or, if more of it ``is_followed``, in the place of its end.
    """

    def __init__(self, grammar: Grammar, stop: int, is_followed: bool = False) -> None:
        self._grammar, self._stop, self._is_followed = grammar, stop, is_followed
        self._terms: list[str] = []
        self._begun: tuple[int, ...] = ()
        self._current: Terms | None = None
        self._ended = False

    def allowed(self, room: int) -> tuple[Tensor, bool]:
        """The ids (n,) int64, ascending, that may come next, and whether they are a question.

        At most ``room`` ids are left for the sentence, its closing ones included.
        """
        if self._ended:
            return torch.tensor([self._stop]), False
        if not self._begun:
            self._current = self._grammar.terms(self._terms, room - _CLOSING)
        assert self._current is not None
        allowed = self._grammar.node(self._current, self._begun).allowed
        if self._is_followed and _contains(allowed, self._grammar.eos):
            others = allowed[(allowed != self._grammar.eos) & (allowed != self._stop)]
            allowed = torch.cat([others, torch.tensor([self._stop])]).sort().values
        return allowed, self._current.question

    def read(self, ids: Sequence[int]) -> bool:
        """Begin with ids that are given; False if the sentence cannot begin so, or ends with them."""
        for token in ids:
            if self._ended or not _contains(self.allowed(_ENDLESS)[0], token):
                return False
            self.write(token)
        return not self._ended

    def write(self, token: int) -> None:
        """Go on with an id that was allowed."""
        assert self._current is not None
        if token == self._grammar.eos:
            self._ended = True
            return
        word = self._grammar.node(self._current, self._begun).complete.get(token)
        self._begun = () if word is not None else (*self._begun, token)
        if word is not None:
            self._terms.append(word)


def grammar_of(modality: object, text: TextTokenizer) -> Grammar | None:
    """The grammar of a text modality; None for others."""
    return Grammar(modality.next_terms, text) if isinstance(modality, TextModality) else None
