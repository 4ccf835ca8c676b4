"""Retrieval on held-out data: the table, its ranks, and what pairs gain."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import bundle
from tiny_data import values

from open4m.errors import GenerationError
from open4m.evaluation import Retrieval, retrieval
from open4m.evaluation.measures import ranks
from open4m.evaluation.retrieval import QueryScores, can_retrieve, header_and_rows, mean_gain, summary
from open4m.generation import AnyToAny
from open4m.retrieval import Embedder
from recipes import retrieval_report
from recipes.retrieval_report import RetrievalReport

HELD = ("rgb", "depth", "caption", "clip", "dinov2_global", "imagebind_global")


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return AnyToAny(bundle())


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    return [{name: values(i)[name] for name in HELD} for i in range(6)]


@pytest.fixture(scope="module")
def found(model: AnyToAny, samples: list[dict[str, Any]]) -> Retrieval:
    return retrieval(model, [*samples, {"depth": values(9)["depth"]}], batch_size=4)


def test_every_modality_and_the_pairs_are_queries(found: Retrieval) -> None:
    assert found.count == 6 and found.galleries == ("pictures", "features")
    assert {query.given for query in found.queries} == {*((name,) for name in HELD), ("caption", "depth")}
    table = {query.given: set(query.recall) for query in found.queries}
    assert table[("rgb",)] == {"features"} and table[("dinov2_global",)] == {"pictures"}  # never in its own gallery
    assert table[("caption", "depth")] == {"pictures", "features"}


def test_ranks_are_those_of_the_vectors(model: AnyToAny, samples: list[dict[str, Any]], found: Retrieval) -> None:
    embedder = Embedder(model)

    def vectors(*given: str) -> np.ndarray:
        return embedder({name: [sample[name] for sample in samples] for name in given})

    scores = next(query.recall for query in found.queries if query.given == ("caption", "depth"))
    for gallery, given in (("pictures", ("rgb",)), ("features", embedder.spaces)):
        cosine = vectors("caption", "depth") @ vectors(*given).T
        places = [1 + int((row > row[i]).sum()) for i, row in enumerate(cosine)]
        assert scores[gallery]["recall@1"] == pytest.approx(np.mean([place <= 1 for place in places]))
        assert scores[gallery]["recall@5"] == pytest.approx(np.mean([place <= 5 for place in places]))
        assert scores[gallery]["median_rank"] == np.median(places)


def test_ranks_on_constructed_vectors() -> None:
    gallery = np.eye(3)
    queries = np.array([[9.0, 0, 0], [1.0, 0.5, 0.2], [1.0, 1.0, 1.0]])
    assert ranks(queries, gallery).tolist() == [1, 2, 3]  # lengths do not count; ties do


def query(*given: str, recall: float) -> QueryScores:
    return QueryScores(given, {"pictures": {"recall@1": 0.1, "recall@5": recall, "median_rank": 4.0}})


def test_pairs_are_compared_with_the_better_one_of_their_parts() -> None:
    queries = (
        *(query("depth", recall=0.2), query("caption", recall=0.5), query("det", recall=0.4)),
        *(query("caption", "depth", recall=0.75), query("caption", "det", recall=0.5)),
    )
    made = Retrieval(("dinov2_global",), 50, 100, ("pictures",), queries, {"pictures": (0.125, 0.0441)})
    assert made.gain(("caption", "depth"), "pictures") == 0.25 and made.gain(("caption", "det"), "pictures") == 0
    assert math.isnan(made.gain(("rgb", "det"), "pictures"))
    text = summary(made)
    assert "1 of 2 pairs have a higher recall@5" in text and "mean gain +0.125, standard deviation 0.044" in text
    assert "Each of 100 samples is searched among 50" in text and "recall@1 is 0.020, recall@5 0.100" in text
    head, rows = header_and_rows(made)
    assert head == ("query", "pictures: recall@1", "recall@5", "gain of the pair", "median rank")
    assert rows[0] == ("depth", "0.100", "0.200", "–", "4")
    assert rows[3] == ("caption+depth", "0.100", "0.750", "+0.250", "4")


def test_the_mean_gain_is_told_with_its_uncertainty(found: Retrieval) -> None:
    for gallery in found.galleries:
        mean, deviation = found.gains[gallery]
        assert mean == pytest.approx(found.gain(("caption", "depth"), gallery))  # the only pair
        assert 0 <= deviation < 0.5
    alike = np.ones(200)
    wrong = np.where(np.arange(200) % 4, alike, 9)  # a quarter of the samples is not found by the one part
    mean, deviation = mean_gain({("a",): wrong, ("b",): wrong, ("a", "b"): alike})
    assert mean == 0.25 and deviation == pytest.approx((0.25 * 0.75 / 200) ** 0.5, rel=0.15)
    scenes = {
        given: np.repeat(ranked, 4) for given, ranked in {("a",): wrong, ("b",): wrong, ("a", "b"): alike}.items()
    }
    assert mean_gain(scenes, views=4) == pytest.approx((mean, deviation))  # four views of a scene say no more than one
    assert mean_gain(scenes)[1] == pytest.approx(deviation / 2, rel=0.15)
    uneven = {given: ranked[:-1] for given, ranked in scenes.items()}
    assert mean_gain(uneven, views=4) == pytest.approx((mean, deviation), rel=0.05)


def test_several_galleries_are_counted_together(model: AnyToAny, samples: list[dict[str, Any]]) -> None:
    together = retrieval(model, [*samples, samples[0]], count=3)  # what does not fill a gallery is left out
    assert (together.count, together.searches) == (3, 6)
    parts = [retrieval(model, part) for part in (samples[:3], samples[3:])]
    for query, *each in zip(together.queries, *(part.queries for part in parts), strict=True):
        for gallery, scores in query.recall.items():
            for name in ("recall@1", "recall@5"):
                assert scores[name] == pytest.approx(np.mean([one.recall[gallery][name] for one in each]))


def test_the_table_is_json(found: Retrieval) -> None:
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["count"] == 6 and len(stored["queries"]) == 7
    assert set(stored["queries"][0]["recall"]["pictures"]) == {"recall@1", "recall@5", "median_rank"}


def test_features_are_a_gallery_only_where_all_samples_have_them(
    model: AnyToAny, samples: list[dict[str, Any]]
) -> None:
    few = [dict(sample) for sample in samples[:3]]
    del few[1]["dinov2_global"]
    made = retrieval(model, few)
    assert made.galleries == ("pictures",) and ("rgb",) not in {query.given for query in made.queries}
    assert "–" not in [cell for row in header_and_rows(made)[1][-1:] for cell in row]


def test_the_report_is_a_document(tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    retrieval_report.main(RetrievalReport(out=out, galleries=2, count=4))
    text = out.read_text()
    assert "Each of 8 samples is searched among 4" in text and "--galleries 2 --count 4" in text
    assert text.count("\n| caption+") == 5  # with each of what else describes a picture


def test_what_is_needed(model: AnyToAny, samples: list[dict[str, Any]]) -> None:
    assert can_retrieve(model, samples) and not can_retrieve(model, samples[:1])
    with pytest.raises(GenerationError, match="0 samples hold a picture"):
        retrieval(model, [{"depth": sample["depth"]} for sample in samples])
    for count in (1, 0, -3):
        with pytest.raises(GenerationError, match=f"A gallery of {count}"):
            retrieval(model, samples, count)
