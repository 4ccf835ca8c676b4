"""Cards: true figures for everything in the catalogue, without a network."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict
from pathlib import Path

import pytest
from published_folder import write_published

from open4m.errors import UnknownNameError
from open4m.hub import card, describe, list_models
from open4m.hub.catalogue import CATALOGUE, published_configuration
from open4m.weights import WEIGHTS
from tests.reference import golden

OWNER = "EPFL-VILAB/"
LAYOUTS = {
    **{f"{OWNER}4M-7_{s}_{d}": f"fm_4m-7_{s}" for s in ("B", "L", "XL") for d in ("CC12M", "COYO700M")},
    **{f"{OWNER}4M-7-T2I_{s}_CC12M": f"fm_4m-7_{s}" for s in ("B", "L", "XL")},
    **{f"{OWNER}4M-21_{s}": f"fm_4m-21_{s}" for s in ("B", "L", "XL")},
    **{e.name: f"tokenizer_{e.name.partition('tokenizers_')[2]}" for e in list_models(kind="tokenizer")},
}
"""Name → recorded layout of the published code."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a card must not need the network")

    monkeypatch.setattr(socket, "socket", refuse)


def test_every_published_thing_has_a_recorded_layout() -> None:
    assert set(LAYOUTS) == set(CATALOGUE) - {f"{OWNER}4M-7-SR_L_CC12M"}


def constructor_defaults(class_: str) -> dict:
    defaults = json.loads(golden("published_layouts/tokenizer_constructor_defaults.json").read_text())
    return defaults["VQ"] | defaults.get(class_, {})


@pytest.mark.parametrize("name", LAYOUTS)
def test_figures_are_those_of_the_published_code(name: str) -> None:
    facts, layout = card(name), json.loads(golden(f"published_layouts/{LAYOUTS[name]}.json").read_text())
    assert facts.parameters == layout["parameters"]
    assert facts.trunk == layout.get("parameters_trunk", layout["parameters"])
    sizes = {"float32": 4, "bool": 1, "int64": 8}
    stored = 0
    for _, shape, dtype in layout["state_dict"]:
        count = sizes[dtype]
        for side in shape:
            count *= side
        stored += count
    assert facts.bytes == stored and facts.estimated
    ours = published_configuration(name)
    recorded = constructor_defaults(layout["class_"]) | layout["config"]
    assert ours == {key: recorded[key] for key in ours}  # what the catalogue says is what the layout was built from
    if facts.kind == "model":
        assert ours == layout["config"]
        assert (facts.inputs, facts.targets) == tuple(
            tuple(sorted(layout["config"][key])) for key in ("domains_in", "domains_out")
        )


@pytest.mark.parametrize(("size", "millions"), [("B", 384.5), ("L", 953.3), ("XL", 3318.1)])
def test_super_resolution_has_the_size_that_the_table_tells(size: str, millions: float) -> None:
    """Spec: model §2, 'SR untied'. Only L was published."""
    from open4m.hub.catalogue import _IN_SR, _OUT_SR, _configuration
    from open4m.hub.published import model_config
    from open4m.hub.sizes import model_size

    found = model_size(model_config(_configuration(size, _IN_SR, _OUT_SR), "test"), True)
    assert round(found.parameters / 1e6, 1) == millions
    if size == "L":
        facts = card("4M-7-SR_L_CC12M")
        assert (facts.parameters, facts.trunk) == (found.parameters, 705_744_896)
        assert len(facts.inputs) == 14 and facts.targets == tuple(sorted(_OUT_SR))


def test_what_a_card_says() -> None:
    facts = card("4M-21_XL")
    assert facts.name == "EPFL-VILAB/4M-21_XL" and facts.location is None and "2406.09406" in facts.paper
    assert facts.licence == "non-commercial" and "non-commercial purposes only" in facts.licence_meaning
    assert facts.preprocessing["crop"] == "centre square" and (facts.image_size, facts.patch_size) == (224, 16)
    assert len(facts.tokenizers) == 13 and set(facts.tokenizers.values()) == {
        entry.name for entry in list_models(kind="tokenizer")
    }
    assert json.loads(json.dumps(asdict(facts)))["parameters"] == 4_517_838_848
    with pytest.raises(UnknownNameError, match="Did you mean"):
        card("4M-21_XXL")


def test_cards_of_bundles_and_folders(tmp_path: Path) -> None:
    own = card("scenes-tiny")
    assert own.licence == "Apache-2.0" and not own.estimated and "Any use" in own.licence_meaning
    assert own.location is not None and own.bytes == Path(own.location).stat().st_size
    folder = write_published(tmp_path / "4M-tiny")
    local = card(folder)
    assert (local.bytes, local.location) == ((folder / WEIGHTS).stat().st_size, str(folder / WEIGHTS))
    assert local.parameters == sum(p.numel() for p in load_parameters(folder))


def load_parameters(folder: Path) -> list:
    from open4m.hub import load_bundle

    return list(load_bundle(folder).model.parameters())


def test_blueprints_of_fetched_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the hub's cache is described by its own files."""
    import huggingface_hub

    folder = write_published(tmp_path / "0123abc")

    def cached(repository: str, file: str, revision: str | None) -> str | None:
        return str(folder / file) if (repository, revision) == ("EPFL-VILAB/4M-21_B", "0123abc") else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    there = describe("4M-21_B@0123abc")
    assert there.weights == folder / WEIGHTS and there.info.name == "EPFL-VILAB/4M-21_B" and there.config.dim == 8
    assert describe("4M-21_B").weights is None and describe("4M-21_B").config.dim == 768


def test_only_the_configuration_of_other_repositories_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    folder = write_published(tmp_path / "0123abc")
    (folder / WEIGHTS).unlink()
    asked: list[object] = []

    def download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    facts = card("somebody/fine-tuned@v1")
    assert asked == [("somebody/fine-tuned", "v1", ["config.json"])]
    assert facts.name == "somebody/fine-tuned" and facts.estimated and facts.location is None
