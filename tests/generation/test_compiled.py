"""Compiled blocks: what is compiled and what is not, and that it changes nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from tiny_bundle import SIZE, bundle, picture, text_tokenizer

from open4m.errors import GenerationError
from open4m.generation.canvas import Canvas
from open4m.generation.defaults import make_plan
from open4m.generation.engine import run
from open4m.generation.passes import Passes, Views, predict
from open4m.modalities.rgb import Rgb
from open4m.model import FourM
from open4m.model.compiled import compile_blocks

RGB = f"rgb@{SIZE}"


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is compiled before, and nothing stays."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def graphs(fresh: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of operations of the graphs that are compiled; they run as they are, so that no compiler is needed."""
    del fresh
    found: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        del inputs
        found.append(len(list(graph.graph.nodes)))
        return graph.forward

    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return found


def compiled() -> FourM:
    model = deepcopy(bundle().model).eval()
    compile_blocks(model)
    return model


def ids(model: FourM, targets: list[str], seed: int = 0, **settings: Any) -> list[list[int]]:
    """What is generated from a picture, at temperature 0."""
    pixels = torch.from_numpy(Rgb().pixels_for_model(picture(seed, SIZE, SIZE)))
    canvas = Canvas(model.config.streams, 1).with_pixels(RGB, pixels[None])
    plan = make_plan(bundle(), targets, [RGB]).independent()
    for name in targets:
        plan = plan.edit(name, temperature=0.0, decode="tokens", **settings)
    made = run(plan, canvas, Passes(model), [seed], text_tokenizer()).canvas
    return [made.tracks[target.stream].ids[made.tracks[target.stream].known].tolist() for target in plan.targets]


def test_a_kind_of_block_is_compiled_once_for_a_shape(graphs: list[int]) -> None:
    model = compiled()
    assert ids(model, ["depth"], guidance=1.0) == ids(bundle().model, ["depth"], guidance=1.0)
    assert len(graphs) == 2  # of two blocks each
    ids(model, ["depth"], seed=1, guidance=1.0)
    ids(model, ["normal"], guidance=1.0)  # of the same shape
    assert len(graphs) == 2
    two = ids(model, ["depth", "normal"], guidance=1.0)
    assert len(graphs) == 3 and two == ids(bundle().model, ["depth", "normal"], guidance=1.0)


def test_shapes_beyond_the_eighth_stay_uncompiled(graphs: list[int]) -> None:
    block, x = compiled().encoder[0], torch.randn(1, 12, bundle().config.dim)
    for length in range(1, 13):
        torch.testing.assert_close(block(x[:, :length], None), bundle().model.encoder[0](x[:, :length], None))
    assert len(graphs) == 8


def test_where_every_step_has_another_shape_nothing_is_compiled(graphs: list[int]) -> None:
    model = compiled()
    for scheme in ("maskgit", "roar"):
        settings = {"steps": 4, "scheme": scheme, "guidance": 1.0}
        assert ids(model, ["depth"], **settings) == ids(bundle().model, ["depth"], **settings)
    assert not graphs
    assert ids(model, ["caption"], tokens=8) == ids(bundle().model, ["caption"], tokens=8)
    assert len(graphs) == 1  # the encoder's


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(GenerationError, match="no-such-compiler is not there"):
        compiled()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.usefixtures("fresh")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of PyTorch's own code
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_compiled_blocks_compute_the_same(dtype: torch.dtype) -> None:
    plain = deepcopy(bundle().model).eval()
    if dtype == torch.int8:
        plain.quantize()
    model = deepcopy(plain)
    compile_blocks(model)
    requests = {f"tok_{name}@{SIZE}": torch.arange(16)[None] for name in ("depth", "normal")}
    pixels = torch.from_numpy(Rgb().pixels_for_model(picture(0, SIZE, SIZE)))
    views = Views.of(Canvas(plain.config.streams, 1).with_pixels(RGB, pixels[None]), 2.0, (RGB,))
    found, wanted = (dict(predict(Passes(m), views, requests)) for m in (model, plain))
    for name, logits in wanted.items():
        error = (found[name] - logits).square().mean() / logits.var()
        assert error < (1e-3 if dtype == torch.int8 else 1e-9), name
