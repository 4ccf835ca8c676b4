"""Files may come from anywhere: whatever is in them gives values or a CheckpointError, soon and in little memory."""

from __future__ import annotations

import json
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_folder import CONFIGURATION, write_published
from tiny_bundle import bundle

from open4m.errors import CheckpointError, CheckpointWarning, UnknownNameError
from open4m.hub import describe, load_bundle, save_bundle
from open4m.hub.places import locate
from open4m.hub.published import model_config
from open4m.model import FourM, ModelConfig
from open4m.streams import StreamSpec
from open4m.weights import CONFIG, WEIGHTS, header_config, read_config, read_layout, read_weights

ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
LARGE = st.sampled_from([0, -1, 2**31, 10**30, 1e400, True, "8", [8], None, 224, 10**9])
SLOW_ALLOWED = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def with_header(path: Path, header: bytes, length: int | None = None, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


# -- the header of weights --------------------------------------------------------------------------------------------
@given(content=st.binary(max_size=300))
@SLOW_ALLOWED
def test_any_bytes_as_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / WEIGHTS
    path.write_bytes(content)
    for read in (header_config, read_layout, read_weights):
        try:
            assert isinstance(read(path), dict)
        except CheckpointError as error:
            assert WEIGHTS in str(error)


@given(header=ANY_JSON | st.fixed_dictionaries({"__metadata__": ANY_JSON}))
@SLOW_ALLOWED
def test_any_json_as_header(tmp_path: Path, header: Any) -> None:
    path = with_header(tmp_path / WEIGHTS, json.dumps(header).encode())
    for read in (header_config, read_layout):
        try:
            assert isinstance(read(path), dict)
        except CheckpointError as error:
            assert WEIGHTS in str(error)


@given(values=st.dictionaries(st.sampled_from(sorted(CONFIGURATION)), st.text(max_size=40), min_size=1))
@SLOW_ALLOWED
def test_any_strings_in_the_header(tmp_path: Path, values: dict[str, str]) -> None:
    path = with_header(tmp_path / WEIGHTS, json.dumps({"__metadata__": values}).encode())
    found = header_config(path)
    assert found.keys() == values.keys()


@pytest.mark.parametrize("length", [2**63, 2**40, 101_000_000, 3])
def test_announced_lengths_are_not_believed(tmp_path: Path, length: int) -> None:
    path = with_header(tmp_path / WEIGHTS, b"{}", length)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        header_config(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_weights(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 2000,
        "{a: " * 1500,
        "!!python/object/apply:os.system [exit]",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "9" * 6000,
        "2001-99-99",
        "? [a]\n: b",
    ],
)
def test_yaml_that_is_no_value_stays_text(tmp_path: Path, text: str) -> None:
    path = with_header(tmp_path / WEIGHTS, json.dumps({"__metadata__": {"dim": text}}).encode())
    assert header_config(path) == {"dim": text}


def test_deep_json(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="not a JSON file"):
        read_config(tmp_path)
    path = with_header(tmp_path / WEIGHTS, b"[" * 200_000)
    with pytest.raises(CheckpointError, match="not a readable"):
        header_config(path)


def test_endless_configurations(tmp_path: Path) -> None:
    with (tmp_path / CONFIG).open("wb") as file:
        file.truncate(10**9)  # sparse: costs no disk
    with pytest.raises(CheckpointError, match="no configuration"):
        read_config(tmp_path)


# -- configurations ---------------------------------------------------------------------------------------------------
@given(values=ANY_JSON | st.fixed_dictionaries({"domains_in": ANY_JSON, "domains_out": ANY_JSON}))
@SLOW_ALLOWED
def test_any_json_as_configuration(tmp_path: Path, values: Any) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(values))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            describe(tmp_path)
    except CheckpointError as error:
        assert CONFIG in str(error)


@given(change=st.dictionaries(st.sampled_from(sorted(CONFIGURATION)), ANY_JSON | LARGE, min_size=1))
@settings(max_examples=150)
def test_changed_published_configurations(change: dict[str, Any]) -> None:
    values = CONFIGURATION | change
    try:
        config = model_config(values, "test")
    except CheckpointError as error:
        assert str(error).startswith("test: ") and len(str(error)) < 5000
    else:
        build(config)


OWN = model_config(CONFIGURATION, "test").to_dict()


@given(st.data())
@settings(max_examples=150)
def test_changed_configurations_of_our_own(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([*OWN, *StreamSpec.__dataclass_fields__]))
    value = data.draw(ANY_JSON | LARGE)
    values = {**OWN, key: value}
    if key not in OWN:
        first, *others = OWN["streams"]
        values = OWN | {"streams": [{**first, key: value}, *others]}
    try:
        config = ModelConfig.from_dict(values, "test")
    except CheckpointError as error:
        assert str(error).startswith("test: ")
    else:
        build(config)


def build(config: ModelConfig) -> None:
    """A configuration that is accepted can be built, within memory."""
    with torch.device("meta"):
        model = FourM(config)
    assert model.config is config


# -- paths ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["../../x", "/etc", "..", ".", "a/../b", "a/b/c", "", "C:\\x", "~", "a\0b", 5, None])
def test_tokenizers_outside_of_the_bundle_are_refused(tmp_path: Path, name: Any) -> None:
    save_bundle(bundle(), tmp_path, torch.float32)
    config = json.loads((tmp_path / CONFIG).read_text())
    config["stream_tokenizers"]["tok_depth@32"] = name
    (tmp_path / CONFIG).write_text(json.dumps(config))
    for read in (describe, load_bundle):
        with pytest.raises(CheckpointError, match=r"tok_depth@32, is not the name of a folder in the bundle"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["../../etc", "a/../../b", "a b/c", "http://x/y", "x/y\n", "-x/y", ".a/b"])
def test_names_that_are_no_place_on_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "deep" / "place").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "deep" / "place")
    with pytest.raises(UnknownNameError):
        locate(name)


def test_a_large_model_announced_by_a_small_file(tmp_path: Path) -> None:
    """Sizes in the configuration are compared with the file before anything of that size is made."""
    folder = write_published(tmp_path, values=CONFIGURATION | {"dim": 2**16, "num_heads": 2**10})
    with pytest.raises(CheckpointError, match=r"pos_emb \(1, 512, 8\) is not the sine-cosine table"):
        load_bundle(folder)
