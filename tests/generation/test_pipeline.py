"""AnyToAny with a tiny random system: inputs of all kinds, results, independence, errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_bundle import FEATURES, MODALITIES, SIZE, WIDTH, bundle, depth_map, picture

from open4m.errors import GenerationError, ModalityError, UnknownNameError
from open4m.generation import AnyToAny, Plan, Result, Tokens
from open4m.modalities.det import Box
from open4m.modalities.human_poses import Person
from open4m.modalities.registry import get_modality
from open4m.modalities.sam_instance import Instance
from open4m.streams import StreamKind

GRIDS = ["depth", "normal", "semseg", "canny_edge", "clip", "dinov2_global"]
WORDS = ["color_palette", "metadata"]


def model() -> AnyToAny:
    return AnyToAny(bundle())


def tokens(result: Result, name: str) -> list[list[int]]:
    return [sample[name].tokens.tolist() for sample in result.samples]


def person() -> Person:
    eye = np.eye(3, dtype=np.float32)
    box = np.array([0.2, 0.1, 0.8, 0.9])
    return Person(box, eye, np.tile(eye, (23, 1, 1)), np.zeros(10, np.float32), np.array([0.9, 0, 0], np.float32))


def values() -> dict[str, object]:
    """One value of every modality."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(40, 48, 3)).astype(np.float32)
    square = np.array([[0.2, 0.2], [0.7, 0.2], [0.7, 0.8], [0.2, 0.8]])
    features = rng.normal(size=(FEATURES, 4, 4)).astype(np.float32)
    return {
        "rgb": picture(),
        "depth": depth_map(),
        "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
        "semseg": rng.integers(0, 134, (40, 48)).astype(np.uint8),
        "canny_edge": rng.integers(0, 256, (40, 48)).astype(np.uint8),
        "sam_edge": rng.integers(0, 256, (40, 48)).astype(np.uint8),
        **dict.fromkeys(("clip", "dinov2", "imagebind"), features),
        **dict.fromkeys(("dinov2_global", "imagebind_global"), features[:, 0, 0]),
        "caption": "a red ball on a wooden floor",
        "t5_caption": rng.normal(size=(5, WIDTH)).astype(np.float32),
        "det": [Box(0.1, 0.2, 0.5, 0.6, "dog")],
        "metadata": {"brightness": 120.0, "n_humans": 1},
        "human_poses": [person()],
        "color_palette": np.array([[250, 20, 20], [10, 90, 10]], dtype=np.uint8),
        "sam_instance": [Instance(square, np.array([0.2, 0.2, 0.7, 0.8]))],
    }


def test_everything_from_a_picture() -> None:
    targets = [name for name in model().targets if name != "rgb"]
    plan = model().plan(targets, ["rgb"])
    for target in plan.targets:
        plan = plan.edit(target.modality, tokens=20) if target.is_sequence else plan
    out = model().generate({"rgb": picture()}, plan=plan)
    assert set(out) == set(targets) == set(MODALITIES) - {"rgb", "t5_caption"}
    for name in out:
        spec = bundle().model.config.stream(out.plan[name].stream)
        assert out[name].tokens.dim() == 1 and out[name].tokens.max() < spec.vocab_size
        if spec.kind is StreamKind.TOKENS:
            assert len(out[name].tokens) == spec.max_tokens
            get_modality(name).validate(out[name].value, name)
        assert out[name].image.size == (224, 224)
    assert out["depth"].value.shape == (SIZE, SIZE)
    assert out["clip"].value.shape == (FEATURES, 4, 4)
    assert isinstance(out["caption"].value, str)


@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_is_an_input(name: str) -> None:
    target = "normal" if name == "depth" else "depth"
    plan = model().plan([target], [name]).edit(target, steps=1, temperature=0.0, guidance=1.0)
    given = model().generate({name: values()[name]}, plan=plan)
    nothing = model().generate({}, [target], plan=replace(plan, inputs=()))
    assert tokens(given, target) != tokens(nothing, target)


def test_all_inputs_at_once_and_their_tokens() -> None:
    found = model().tokenize(values())
    assert set(found) == {s.name for s in bundle().model.config.inputs if s.vocab_size}
    assert found["caption"][-1] == 3 and found["metadata"][-1] == 5  # complete; other fields stay open
    out = model().generate({k: v for k, v in values().items() if k != "depth"}, ["depth"])
    assert len(out["depth"].tokens) == 16
    with_map = model().tokenize({"clip": values()["clip"], "rgb": picture(0, 40, 80)})
    assert torch.equal(torch.as_tensor(with_map["tok_clip@32"]), torch.as_tensor(found["tok_clip@32"]))


def test_results_do_not_depend_on_company() -> None:
    everything = model().generate({"rgb": picture()}, [*GRIDS, *WORDS], seed=5)
    for name in (*GRIDS, *WORDS):
        alone = model().generate({"rgb": picture()}, [name], seed=5)
        assert tokens(alone, name) == tokens(everything, name), name


def test_results_do_not_depend_on_the_batch() -> None:
    pictures, targets = [picture(i) for i in range(3)], ["depth", "caption"]
    plan = model().plan(targets, ["rgb"]).edit("depth", steps=4, temperature=1.0, decode="tokens")
    plan = plan.edit("caption", tokens=30)
    batch = model().generate({"rgb": pictures}, plan=plan, seed=10)
    assert batch.seeds == (10, 11, 12) and len(batch["depth"]) == 3
    for i, single in enumerate(pictures):
        alone = model().generate({"rgb": single}, plan=plan, seed=10 + i)
        assert all(tokens(alone, name)[0] == tokens(batch, name)[i] for name in targets)


def test_chained_generation_and_seeds() -> None:
    plan = model().plan(["rgb", "caption"], ["color_palette"]).edit("caption", tokens=20).edit("clip", steps=3)
    palette = {"color_palette": values()["color_palette"]}
    first, again = (model().generate(palette, plan=plan, seed=1) for _ in range(2))
    other = model().generate(palette, plan=plan, seed=2)
    assert tokens(first, "rgb") == tokens(again, "rgb") != tokens(other, "rgb")
    assert list(first) == ["rgb", "caption"] and len(first["clip"].tokens) == 16
    assert first["rgb"].value.shape == (SIZE, SIZE, 3)


def test_repeated_instances_are_merged_into_one_list() -> None:
    plan = model().plan(["sam_instance", "caption"], ["rgb"]).edit("caption", tokens=8)
    once = plan.edit("sam_instance", tokens=40, temperature=1.0)
    often = once.edit("sam_instance", repeats=4)
    single, merged, again = (
        model().generate({"rgb": [picture(0), picture(1)]}, plan=p, seed=3) for p in (once, often, often)
    )
    assert tokens(merged, "sam_instance") == tokens(again, "sam_instance")
    assert tokens(merged, "caption") == tokens(single, "caption")
    for row in range(2):
        ids = single["sam_instance"][row].tokens
        item = merged["sam_instance"][row]
        assert item.repeats[0].tolist() == ids.tolist() and len(item.repeats) == 4
        words = " ".join(f" {model().codecs.text.decode(ids.tolist())} " for ids in item.repeats)
        assert len(set(re.findall(r" point v0=\d+ v1=\d+ ", words))) >= 4  # query points differ


def test_repeated_boxes_are_believed_as_often_as_they_were_written() -> None:
    plan = model().plan(["det"], ["rgb"]).edit("det", tokens=60, temperature=1.0, repeats=4)
    (item,) = model().generate({"rgb": [picture()]}, plan=plan, seed=3)["det"]
    each = [box for ids in item.repeats for box in model().codecs.value(item.spec, ids)]
    assert each and sum(box.score for box in item.value) * 4 == pytest.approx(len(each))
    assert {box.class_name for box in item.value} == {box.class_name for box in each}


def test_nothing_given_and_variations() -> None:
    out = model().generate({}, ["depth"], samples=3)
    assert len({tuple(row) for row in tokens(out, "depth")}) == 3
    assert [sample.seed for sample in out.samples] == [0, 1, 2]


def test_the_first_target_of_a_chain_depends_on_the_inputs_only() -> None:
    plan = model().plan(["depth", "normal"], ["caption"])
    both = model().generate({"caption": "two dogs"}, plan=plan)
    assert tokens(both, "depth") == tokens(model().generate({"caption": "two dogs"}, ["depth"]), "depth")


def test_expected_values_follow_the_probabilities() -> None:
    plan = model().plan(["depth", "semseg"], ["rgb"])
    soft = model().generate({"rgb": picture()}, plan=plan)
    hard = model().generate({"rgb": picture()}, plan=plan.edit("depth", decode="tokens"))
    assert tokens(soft, "depth") == tokens(hard, "depth")
    assert not np.allclose(soft["depth"].value, hard["depth"].value)
    assert np.array_equal(soft["semseg"].value, hard["semseg"].value)
    likeliest = soft["depth"]._probabilities.argmax(dim=-1)
    assert (likeliest == soft["depth"].tokens).float().mean() > 0.9  # temperature 0.01


def test_files_pictures_and_arrays_mean_the_same(tmp_path: Path) -> None:
    get_modality("rgb").write(picture(), tmp_path / "photo.png")
    ways = (picture(), Image.fromarray(picture()), tmp_path / "photo.png", str(tmp_path / "photo.png"))
    found = [tokens(model().generate({"rgb": way}, ["depth"]), "depth") for way in ways]
    assert found == found[:1] * 4


def test_one_view_for_all_inputs_of_a_sample() -> None:
    wide = picture(0, 40, 80)
    cut = wide[:, 20:60]
    depth = depth_map(0, 20, 40)
    whole = model().generate({"rgb": wide, "depth": depth}, ["semseg"])
    centre = model().generate({"rgb": cut, "depth": depth[:, 10:30]}, ["semseg"])
    assert tokens(whole, "semseg") == tokens(centre, "semseg")
    with pytest.raises(GenerationError, match="same picture"):
        model().generate({"rgb": wide, "depth": depth[:, :20]}, ["semseg"])


def test_tokens_as_inputs_and_partial_grids() -> None:
    first = model().generate({"rgb": picture()}, ["depth"])["depth"].tokens
    again = model().tokenize({"depth": Tokens(first)})[f"tok_depth@{SIZE}"]
    assert isinstance(again, torch.Tensor) and torch.equal(again, first)
    known = np.arange(16) < 6
    filled = model().generate({"depth": Tokens(first, known)}, ["depth"])["depth"].tokens
    assert torch.equal(filled[:6], first[:6])
    with pytest.raises(GenerationError, match="given completely"):
        model().generate({"depth": Tokens(first)}, ["depth"])
    caption = model().tokenize({"caption": "two dogs"})["caption"]
    with pytest.raises(GenerationError, match="'known' is for grids"):
        model().generate({"caption": Tokens(torch.as_tensor(caption), [True, False, True])}, ["depth"])
    with pytest.raises(GenerationError, match="600 tokens given"):
        model().generate({"caption": Tokens([50] * 600)}, ["depth"])
    with pytest.raises(GenerationError, match="15 tokens given"):
        model().generate({"depth": Tokens(first[1:])}, ["normal"])
    rgb = model().tokenize({"rgb": picture()})[f"tok_rgb@{SIZE}"]
    assert isinstance(rgb, torch.Tensor)
    assert model().generate({"rgb": Tokens(rgb)}, ["depth"]).plan.inputs == (f"tok_rgb@{SIZE}",)


def test_captions_are_continued_after_their_sentinel() -> None:
    plan = model().plan(["caption"], ["caption", "rgb"]).edit("caption", tokens=12)
    out = model().generate(
        {"caption": "two dogs [S_1]", "rgb": picture()}, plan=replace(plan, inputs=("rgb@32", "caption"))
    )
    assert out["caption"].value.startswith("two dogs")
    with pytest.raises(GenerationError, match="given completely"):
        model().generate({"caption": "two dogs", "rgb": picture()}, ["caption"])
    with pytest.raises(GenerationError, match=r"401 word pieces given, .* it has gaps"):
        model().generate({"caption": "dog " * 400 + "[S_1]"}, ["caption"])


def test_batches_of_lists() -> None:
    boxes = [Box(0.1, 0.2, 0.5, 0.6, "dog")]
    assert not model().generate({"det": boxes}, ["depth"]).batched
    assert not model().generate({"det": []}, ["depth"]).batched
    assert len(model().generate({"det": [boxes, []]}, ["depth"]).samples) == 2
    assert len(model().generate({"det": boxes, "rgb": [picture(0), picture(1)]}, ["depth"]).samples) == 2
    with pytest.raises(GenerationError, match="unequal"):
        model().generate({"rgb": [picture()] * 2, "caption": ["a", "b", "c"]}, ["depth"])
    with pytest.raises(GenerationError, match="samples=3"):
        model().generate({"rgb": [picture()] * 2}, ["depth"], samples=3)
    assert model().generate({"rgb": picture()}, ["depth"], seed=np.int64(3), samples=2).seeds == (3, 4)  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="one shape"):
        model().generate({"clip": [np.ones((FEATURES, n, n), np.float32) for n in (4, 6)]}, ["depth"])
    with pytest.raises(GenerationError, match="2 seeds"):
        model().generate({"rgb": picture()}, ["depth"], seed=[1, 2])


def test_saving_and_reading_back(tmp_path: Path) -> None:
    out = model().generate({"rgb": picture()}, ["depth", "semseg", "color_palette"])
    out.save(tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        *("depth.png", "depth.picture.png", "semseg.png", "semseg.picture.png"),
        *("color_palette.json", "color_palette.picture.png", "plan.json", "tokens.safetensors"),
    }
    assert [p.name for p in tmp_path.iterdir()] == ["out"]  # nothing temporary is left
    saved = get_modality("depth").read(tmp_path / "out" / "depth.png")
    assert np.abs(saved - out["depth"].value).max() < 1e-3
    record = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert Plan.from_dict(record["plan"]) == out.plan and record["seeds"] == [0]
    model().generate({}, ["depth"], samples=2).save(tmp_path / "two")
    assert (tmp_path / "two" / "0001" / "depth.png").is_file()
    value, shown = out["depth"].save(tmp_path / "one.png")
    assert (value.name, shown.name) == ("one.png", "one.picture.png") and value.is_file() and shown.is_file()


def test_features_of_inputs() -> None:
    one = model().embed({"rgb": picture(1)})
    two = model().embed({"rgb": [picture(0), picture(1)]})
    assert one.shape == (32,) and two.shape == (2, 32)
    np.testing.assert_allclose(two[1], one, atol=1e-5)


def test_progress_is_told_after_every_step() -> None:
    told: list[tuple[str, int, int]] = []
    plan = (
        model()
        .plan(["depth", "color_palette"], ["rgb"])
        .edit("color_palette", tokens=9)
        .edit("depth", steps=3, decode="tokens")
    )
    model().generate({"rgb": picture()}, plan=plan, progress=lambda *args: told.append(args))
    assert told[:3] == [("depth", step, 11) for step in (1, 2, 3)]  # and up to eight words
    assert told[-1] == ("color_palette", 11, 11) and len(told) > 4
    done = [done for _, done, _ in told]
    assert done == sorted(done)


def test_untrained_models_are_refused() -> None:
    untrained = replace(bundle(), model=type(bundle().model)(bundle().model.config))
    with pytest.raises(GenerationError, match="not trained"):
        AnyToAny(untrained)


def test_missing_tokenizers_are_named() -> None:
    info = replace(bundle().info, stream_tokenizers={f"tok_rgb@{SIZE}": "rgb"})
    poor = AnyToAny(replace(bundle(), info=info, text=None))
    out = poor.generate({"rgb": picture()}, ["depth"])
    assert len(out["depth"].tokens) == 16
    with pytest.raises(GenerationError, match="no tokenizer for depth"):
        _ = out["depth"].value
    with pytest.raises(GenerationError, match="no text tokenizer"):
        poor.generate({"rgb": picture()}, ["caption"])
    with pytest.raises(GenerationError, match="no tokenizer for depth"):
        poor.generate({"depth": depth_map()}, ["normal"])


def test_bad_requests_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rgb'"):
        model().generate({"rgbb": picture()}, ["depth"])
    with pytest.raises(ModalityError, match="no such file"):
        model().generate({"rgb": tmp_path / "missing.png"}, ["depth"])
    with pytest.raises(ModalityError, match="PIL picture"):
        model().generate({"depth": Image.fromarray(picture())}, ["normal"])
    with pytest.raises(ModalityError, match="normalised"):
        model().generate({"rgb": picture().astype(np.float32) - 128}, ["depth"])
    with pytest.raises(GenerationError, match="channels given"):
        model().generate({"clip": np.ones((3, 4, 4), np.float32)}, ["depth"])
    plan = model().plan(["depth", "caption"], ["rgb"])
    for name, tokens_asked in (("depth", 8), ("caption", 257)):
        with pytest.raises(GenerationError, match=f"{name}: tokens is {tokens_asked}"):
            model().generate({"rgb": picture()}, plan=plan.edit(name, tokens=tokens_asked))
    for change in ({"guidance": {"rgb": 2.0}}, {"conditions": ("rgb",)}):
        with pytest.raises(UnknownNameError, match="Unknown stream 'rgb'"):
            model().generate({"rgb": picture()}, plan=plan.edit("depth", **change))
    with pytest.raises(GenerationError, match="plan was made for"):
        model().generate({"caption": "a"}, plan=model().plan(["depth"], ["rgb"]))
    with pytest.raises(UnknownNameError, match="target of this plan"):
        model().generate({"rgb": picture()}, ["normal"], plan=model().plan(["depth"], ["rgb"]))
    with pytest.raises(GenerationError, match="given twice"):
        model().generate({"depth": depth_map(), f"tok_depth@{SIZE}": depth_map()}, ["normal"])


def test_importing_is_fast_and_lazy() -> None:
    program = "import sys, open4m; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    import open4m

    assert set(open4m.__all__) <= set(dir(open4m))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        open4m.lode  # noqa: B018
    with pytest.raises(UnknownNameError):
        open4m.load("no-such-model")
