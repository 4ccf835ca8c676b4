"""Which number format, and which form of attention, is fast on a device."""

from __future__ import annotations

import torch
from torch import Tensor


def fast_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where ``device`` multiplies it in hardware, else float32."""
    if torch.device(device).type == "cuda":
        in_hardware = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        in_hardware = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if in_hardware else torch.float32


def activation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The number format of activations beside weights of ``dtype``: bfloat16 for int8, else the same."""
    return torch.bfloat16 if dtype == torch.int8 else dtype


def plain_attention_is_faster(queries: Tensor) -> bool:
    """Whether matmul–softmax–matmul beats the fused kernel for ``queries`` (B, H, M, K): training in bfloat16 on a CPU.

    The backward of the fused kernel is 2–5 times slower there.
    """
    return queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and queries.requires_grad


def packing_is_faster(inputs: Tensor) -> bool:
    """Whether samples of different lengths are better put one behind the other than padded: for inference on a CPU.

    There larger products are faster, padding costs its share, and attention may as well run sample by sample.
    """
    return inputs.device.type == "cpu" and not inputs.requires_grad


def slicing_is_faster(inputs: Tensor) -> bool:
    """Whether the weights of a linear layer are better read slice by slice for a few rows: in float32 on a CPU."""
    return inputs.device.type == "cpu" and inputs.dtype == torch.float32


def table_first_is_faster(rows: Tensor) -> bool:
    """Whether a few ``rows`` are better multiplied by a table than a table by them: in bfloat16 on a CPU."""
    return rows.device.type == "cpu" and rows.dtype == torch.bfloat16


def prepacking_is_faster(device: torch.device | str, dtype: torch.dtype) -> bool:
    """Whether weights are better brought into the order of a CPU's kernels once, than for every product: in bfloat16.

    In float32 a decoder step gains nothing (docs/performance.md); :mod:`benchmarks.few_rows` measures bfloat16.
    """
    on_cpu = torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available()
    return on_cpu and dtype == torch.bfloat16 == fast_dtype(device)
