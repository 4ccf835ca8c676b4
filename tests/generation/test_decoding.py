"""Laws of decoding that hold for any weights."""

from __future__ import annotations

import pytest
import torch
from tiny_bundle import SIZE, bundle, picture

from open4m.batch import TokenTargets
from open4m.generation.canvas import Canvas
from open4m.generation.decoding import (
    Candidates,
    GridStep,
    SequenceJob,
    filling_grid,
    most_confident,
    random_order,
    write_sequences,
)
from open4m.generation.passes import Passes, Views, predict
from open4m.generation.sampling import Sampler
from open4m.generation.schedules import token_schedule
from open4m.modalities.rgb import Rgb

RGB, DEPTH, NORMAL = f"rgb@{SIZE}", f"tok_depth@{SIZE}", f"tok_normal@{SIZE}"
ALL = torch.arange(16).repeat(2, 1)


def canvas(batch: int = 2) -> Canvas:
    pixels = [torch.from_numpy(Rgb().pixels_for_model(picture(i, SIZE, SIZE))) for i in range(batch)]
    return Canvas(bundle().model.config.streams, batch).with_pixels(RGB, torch.stack(pixels))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def logits(views: Views, requests: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(predict(Passes(bundle().model), views, requests))


def test_targets_that_share_a_pass_do_not_see_each_other() -> None:
    together = logits(Views((canvas(),)), {DEPTH: ALL, NORMAL: ALL[:, 3:9]})
    close(together[DEPTH], logits(Views((canvas(),)), {DEPTH: ALL})[DEPTH])
    close(together[NORMAL], logits(Views((canvas(),)), {NORMAL: ALL[:, 3:9]})[NORMAL])


def test_guidance_mixes_separate_passes() -> None:
    state = canvas().with_sequences("caption", [[4300, 3], [4301, 4302]])

    def alone(c: Canvas) -> torch.Tensor:
        return logits(Views((c,)), {DEPTH: ALL})[DEPTH]

    conditional, unconditional = alone(state), alone(state.unconditional([RGB, "caption"]))
    guided = logits(Views.of(state, 2.5, (RGB, "caption")), {DEPTH: ALL})[DEPTH]
    close(guided, unconditional + 2.5 * (conditional - unconditional))
    rgb, caption = alone(state.unconditional(["caption"])), alone(state.unconditional([RGB]))
    several = logits(Views.of(state, {RGB: 2.0, "caption": -0.5}, ()), {DEPTH: ALL})[DEPTH]
    close(several, unconditional + 2.0 * (rgb - unconditional) - 0.5 * (caption - unconditional))


@pytest.mark.parametrize("name", [RGB, "caption"])
def test_the_weight_of_an_only_input_is_that_of_everything(name: str) -> None:
    state = canvas() if name == RGB else Canvas(bundle().model.config.streams, 2)
    state = state if name == RGB else state.with_sequences("caption", [[4300, 3], [4301, 4302]])
    one, several = Views.of(state, 2.0, (name,)), Views.of(state, {name: 2.0}, ())
    assert one.weights == several.weights == (2.0,)
    assert torch.equal(*(logits(views, {DEPTH: ALL})[DEPTH] for views in (one, several)))


@pytest.mark.parametrize(("guidance", "conditions"), [(1.0, (RGB,)), (3.0, ()), (3.0, ("det",)), ({"det": 2.0}, ())])
def test_no_second_pass_where_guidance_changes_nothing(guidance: float, conditions: tuple[str, ...]) -> None:
    assert len(Views.of(canvas(), guidance, conditions).canvases) == 1


@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
def test_given_tokens_stay_and_the_rest_is_filled(scheme: str) -> None:
    known = torch.zeros(2, 16, dtype=torch.bool)
    known[:, 4:8] = True
    ids = torch.randint(0, 24, (2, 16), generator=torch.Generator().manual_seed(0))
    start = canvas().with_tokens(DEPTH, ids, known)
    steps = [GridStep(k, Sampler(1.0)) for k in token_schedule("cosine", 5, 12)]
    states = filling_grid(Passes(bundle().model), start, DEPTH, scheme, steps, lambda c: Views((c,)), [3, 4])  # type: ignore[arg-type]
    *_, done = states
    assert done.tracks[DEPTH].known.all()
    assert torch.equal(done.tracks[DEPTH].ids[known], ids[known])


def test_choosers() -> None:
    positions = torch.tensor([[1, 4, 6, 9]])
    confidence = torch.tensor([[0.1, 0.9, 0.9, 0.2]])
    assert most_confident(Candidates(0, 3, positions, positions, confidence)).tolist() == [[4, 6, 9]]
    order = random_order([1, 2], DEPTH, 16)
    first = order(Candidates(0, 5, ALL))
    assert first[0].tolist() != first[1].tolist()
    assert torch.equal(first, order(Candidates(0, 16, ALL))[:, :5])
    assert torch.equal(first[1:], random_order([2], DEPTH, 16)(Candidates(0, 5, ALL[1:])))


def test_cached_steps_equal_one_pass_over_the_prefix() -> None:
    model = bundle().model
    index = model.config.index("caption")
    token = torch.randint(4284, 4290, (2, 7), generator=torch.Generator().manual_seed(1))
    order = torch.arange(7).repeat(2, 1)
    stream, valid = torch.full_like(token, index), torch.ones_like(token, dtype=torch.bool)

    def part(stop: slice) -> TokenTargets:
        return TokenTargets(
            stream[:, stop], order[:, stop], token[:, stop], token[:, stop], order[:, stop], valid[:, stop]
        )

    with torch.inference_mode():
        encoded = model.encode(canvas().opened("caption").inputs())
        whole = model.decode(part(slice(None)), encoded)
        cache = model.start_decoding(encoded)
        steps = [model.decode_next(part(slice(i, i + 1)), cache) for i in range(4)]
        cache = cache.take(torch.tensor([1]))
        rest = part(slice(4, 5))
        last = TokenTargets(*(getattr(rest, k)[1:] for k in ("stream", "position", "token", "label", "order", "valid")))
        close(torch.cat(steps, dim=1), whole[:, :4])
        close(model.decode_next(last, cache), whole[1:, 4:5])


def test_sequences_written_together_equal_those_written_alone() -> None:
    model = bundle().model

    def job(name: str, limit: int) -> SequenceJob:
        return SequenceJob(name, Views((canvas().opened(name),)), Sampler(0.8, top_p=0.9), limit)

    jobs = [job("caption", 12), job("color_palette", 5), job("metadata", 20)]
    together = write_sequences(Passes(model), jobs, [7, 8])
    assert together == [write_sequences(Passes(model), [j], [7, 8])[0] for j in jobs]
    assert [max(len(row) for row in rows) - 1 for rows in together] == [12, 5, 20]
    alone = SequenceJob("caption", Views((canvas().take([1]).opened("caption"),)), Sampler(0.8, top_p=0.9), 12)
    assert write_sequences(Passes(model), [alone], [8])[0][0] == together[0][1]


def test_repeats_share_an_encoding_and_draw_anew() -> None:
    model, counted = bundle().model, []
    views = Views((canvas().opened("caption"),))
    jobs = [SequenceJob("caption", views, Sampler(0.8, top_p=0.9), 12, repeat=repeat) for repeat in range(3)]
    encode = model.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode", lambda inputs: counted.append(len(inputs.token)) or encode(inputs))
        repeats = write_sequences(Passes(model), jobs, [7, 8])
    assert counted == [2]  # two samples, not six
    assert repeats[0] == write_sequences(Passes(model), jobs[:1], [7, 8])[0]
    assert repeats[2] == write_sequences(Passes(model), jobs[2:], [7, 8])[0]
    assert repeats[0] != repeats[1] != repeats[2]


def test_rows_stop_at_their_own_closing_sentinel() -> None:
    class Script:
        """A sampler that writes a fixed text per call."""

        def __init__(self, *columns: list[int]) -> None:
            self.columns = iter(columns)

        def __call__(self, logits: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            ids = torch.tensor(next(self.columns))
            assert len(ids) == len(logits) == len(uniform)
            return ids, torch.ones(len(ids))

    state = canvas().with_sequences("caption", [[5], [4300, 5, 4301, 6]])
    script = Script([4290, 4291], [6, 6], [4292], [7])
    job = SequenceJob("caption", Views((state,)), script, 30)  # type: ignore[arg-type]
    assert write_sequences(Passes(bundle().model), [job], [0, 1]) == [[[5, 4290, 6], [5, 4291, 6, 4292, 7]]]
