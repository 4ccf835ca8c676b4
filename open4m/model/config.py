"""ModelConfig: everything that is needed to build the transformer, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from open4m.errors import CheckpointError, UnknownNameError
from open4m.streams import StreamSpec

Activation = Literal["silu", "gelu"]

_LARGEST = {"dim": 2**16, "encoder_depth": 256, "decoder_depth": 256, "num_heads": 2**12, "mlp_ratio": 64}
"""Far above every known model, and low enough for a configuration to be tried without harm."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a :class:`~open4m.model.transformer.FourM` (4M, section 3; named sizes: :mod:`open4m.model.sizes`).

    Attributes:
        streams: the streams the model knows; batches refer to them by their index in this tuple.
        dim: width of the residual stream.
        encoder_depth, decoder_depth: number of blocks.
        num_heads: attention heads; must divide ``dim``.
        mlp_ratio: hidden width of the MLP over ``dim``; a gated MLP uses two thirds of it.
        gated_mlp: ``fc2(act(fc1 x) · fc3 x)`` instead of ``fc2(act(fc1 x))``.
        act: activation of the MLP.
        qkv_bias, proj_bias, mlp_bias, norm_bias: which layers have a bias.
        qk_norm: LayerNorm over the head dimension of queries and keys.
        tied_output: the output head of a stream is the decoder's token table.
        tied_input: *own*. The encoder reads ids from the decoder's token tables too, where there is one of the name:
            half the parameters of small models are tables. False = as published.
    """

    streams: tuple[StreamSpec, ...]
    dim: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    gated_mlp: bool = True
    act: Activation = "silu"
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False
    tied_output: bool = True
    tied_input: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", tuple(self.streams))
        self._check_numbers()
        if self.dim % self.num_heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads ({self.num_heads}) and of 4")
        if self.act not in ("silu", "gelu"):
            raise ValueError(f"act must be 'silu' or 'gelu', not {self.act!r}")
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise ValueError(f"streams are named twice: {', '.join(repeated)}")
        self._check_tables()

    def _check_numbers(self) -> None:
        """A configuration may come from any file: wrong types, and sizes that no memory holds, are named."""
        for entry in fields(self):
            value, most = getattr(self, entry.name), _LARGEST.get(entry.name)
            if entry.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{entry.name} must be true or false, not {value!s:.40}")
            if most is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{entry.name} must be a number, not {value!s:.40}")
            if most is not None and (not 0 <= value <= most or (entry.type == "int" and not isinstance(value, int))):
                raise ValueError(f"{entry.name} must be {entry.type} and in 0…{most}, not {value!s:.40}")
        if not (self.dim and self.num_heads and self.mlp_hidden):
            raise ValueError("dim, num_heads and the hidden width of the MLP must be positive")

    def _check_tables(self) -> None:
        """Streams that share a table must agree on what its rows are."""
        seen: dict[str, StreamSpec] = {}
        for spec in self.streams:
            if not spec.vocab_size:
                continue
            first = seen.setdefault(spec.table, spec)
            if (first.vocab_size, first.kind) != (spec.vocab_size, spec.kind):
                raise ValueError(
                    f"streams {first.name} ({first.kind}, {first.vocab_size} ids) and {spec.name} ({spec.kind}, "
                    f"{spec.vocab_size} ids) cannot share the table {spec.table!r}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the streams, in order."""
        return tuple(spec.name for spec in self.streams)

    @property
    def inputs(self) -> tuple[StreamSpec, ...]:
        """Streams the encoder embeds."""
        return tuple(spec for spec in self.streams if spec.is_input)

    @property
    def targets(self) -> tuple[StreamSpec, ...]:
        """Streams the decoder predicts."""
        return tuple(spec for spec in self.streams if spec.is_target)

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP."""
        hidden = self.mlp_ratio * self.dim
        return int(2 * hidden / 3) if self.gated_mlp else int(hidden)

    def stream(self, name: str) -> StreamSpec:
        """The stream called ``name``; raises :class:`UnknownNameError` with suggestions."""
        return self.streams[self.index(name)]

    def index(self, name: str) -> int:
        """Index of the stream called ``name``; raises :class:`UnknownNameError` with suggestions."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UnknownNameError("stream", name, self.names) from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as stored in a bundle's ``config.json``."""
        return asdict(self) | {"streams": [spec.to_dict() for spec in self.streams]}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "model config") -> ModelConfig:
        """Inverse of :meth:`to_dict`. Unknown, missing or impossible entries raise :class:`CheckpointError`."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError(f"{source}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        try:
            arguments: dict[str, Any] = dict(values)
            arguments["streams"] = tuple(StreamSpec.from_dict(spec) for spec in values.get("streams", ()))
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: {error}. Was the file written by another version?") from error
