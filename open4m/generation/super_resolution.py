"""Super-resolution: a second model reads what the first one saw and made, and predicts finer tokens of it.

The published one (4M-7-SR_L_CC12M) takes ``tok_*@224`` to ``tok_*@448`` (spec: generation §5).
"""

from __future__ import annotations

from open4m.errors import GenerationError
from open4m.generation.canvas import FIRST_SPAN, Canvas
from open4m.generation.defaults import make_plan, modalities, raises_resolution
from open4m.generation.plan import Plan
from open4m.hub.blueprint import Blueprint
from open4m.hub.bundle import Bundle
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.text import TextTokenizer


def upscaling_plan(bundle: Bundle | Blueprint, plan: Plan) -> Plan:
    """The default plan of the model ``bundle`` after ``plan`` of another model.

    Targets: everything that ``plan`` generates (also on the way) and that the model knows at a higher resolution.
    Inputs: everything that was given or is generated, as far as the model reads it.

    Raises:
        GenerationError: there is nothing whose resolution could be raised.
    """
    config = bundle.config
    made = {target.modality for target in plan.targets if "@" in target.stream}
    finer = [spec for spec in config.targets if raises_resolution(config, spec)]
    targets = [spec.name for spec in finer if spec.modality in made]
    if not targets:
        raise GenerationError(
            f"{bundle.info.name} can raise the resolution of {', '.join(modalities(finer)) or 'nothing'}, but "
            f"{', '.join(plan.requested)} is generated. Ask for one of the former, or leave out super-resolution."
        )
    known = {*plan.inputs, *(target.stream for target in plan.targets)}
    return make_plan(bundle, targets, [spec.name for spec in config.inputs if spec.name in known])


def low_resolution(bundle: Bundle, canvas: Canvas) -> Canvas:
    """What ``canvas`` of another model holds, as input of the model in ``bundle``: the streams that both know.

    A caption or list of boxes that is empty is taken for unknown (``[S_1]``), as published.

    Raises:
        GenerationError: a stream of both has another vocabulary or shape, so that its ids would mean something else.
    """
    ours = {spec.name: spec for spec in bundle.model.config.inputs}
    found = Canvas(bundle.model.config.streams, canvas.batch)
    for name, spec in ours.items():
        if name not in canvas.tracks:
            continue
        _require_equal(bundle.info.name, spec, canvas.spec(name))
        if spec.kind is StreamKind.SEQUENCE:
            rows = [canvas.sequence(name, row)[: spec.max_tokens] for row in range(canvas.batch)]
            empty = ([], [TextTokenizer.eos])
            found = found.with_sequences(name, [[FIRST_SPAN] if row in empty else row for row in rows])
        else:
            found = found.adopt(name, canvas)
    return found


def _require_equal(model: str, ours: StreamSpec, theirs: StreamSpec) -> None:
    for what in ("kind", "vocab_size", "grid", "channels"):
        a, b = getattr(ours, what), getattr(theirs, what)
        if a != b:
            raise GenerationError(
                f"{model}: its stream {ours.name} has {what} {a}, that of the first model {b}. Use two models that "
                "were made for each other."
            )
