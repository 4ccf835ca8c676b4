"""Settings of targets from text: ``rgb.steps=12``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from open4m.errors import GenerationError, UnknownNameError
from open4m.generation.plan import Plan


def _count_or_share(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "scheme": (str, ""),
    "steps": (int, "a whole number"),
    "tokens": (int, "a whole number"),
    "token_schedule": (str, ""),
    "temperature": (float, "a number"),
    "temperature_schedule": (str, ""),
    "top_k": (_count_or_share, "a whole number, or a share such as 0.1"),
    "top_p": (float, "a number"),
    "gumbel": (float, "a number"),
    "guidance": (float, "a number"),
    "decode": (str, ""),
    "decoder_steps": (int, "a whole number"),
    "decoder_solver": (str, ""),
    "grammar": (_boolean, "true or false"),
    "repeats": (int, "a whole number"),
}
"""Setting of :class:`~open4m.generation.plan.TargetPlan` → how its text is read, and what is expected."""


def with_settings(plan: Plan, settings: Mapping[str, str]) -> Plan:
    """The plan with some settings of some targets changed.

    Args:
        settings: ``target.setting`` → value, as text. What is set for one target is changed at once.

    Raises:
        UnknownNameError: no such target or setting; similar names are suggested.
        GenerationError: a value that cannot be, alone or beside the others.
    """
    changes: dict[str, dict[str, Any]] = {}
    for key, text in settings.items():
        target, dot, name = key.partition(".")
        if not dot:
            raise GenerationError(f"{key}={text} names no target. Write TARGET.SETTING=VALUE, such as rgb.steps=12.")
        chosen = changes.setdefault(plan[target].modality, {})
        chosen[name] = _value(key, name, text)
    for target, values in changes.items():
        plan = plan.edit(target, **values)
    return plan


def _value(key: str, name: str, text: str) -> Any:
    if name not in _READ:
        raise UnknownNameError("setting", name, _READ)
    read, expected = _READ[name]
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        raise GenerationError(f"{key} is {text!r}; expected {expected}.") from error
