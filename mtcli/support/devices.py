"""Which processor does the arithmetic, with how many threads, which memory allocator and kernels. Knows no model."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from .errors import UserError


def prepare(name: str, threads: int | None = None, kernels: int = 64) -> torch.device:
    """The device of that name, set up to be fast; call it before the first large tensor is made. Raises UserError.

    ``kernels``: oneDNN, and PyTorch once more, keep those for the last shapes of matrices, by default 1,024: in
    training that is a gigabyte, which grows for minutes. There a layer repeats the shapes of the one before, but hardly
    any batch those of another; 64 are as fast.
    """
    keep_freed_memory()
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(kernels))
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose(name)
    if device.type == "cpu":
        choose_products()
    return device


def choose(name: str) -> torch.device:
    """The device of that name: cpu, cuda, cuda:N, mps; ``auto`` is cuda, else cpu. Raises UserError."""
    there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    there += ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if len(there) > 1 and there[1] == "cuda:0" else "cpu"
    if name not in there and not (name == "cuda" and "cuda:0" in there):
        raise UserError(
            f"--device is '{name}', which this machine or this PyTorch does not have; there is: auto, {', '.join(there)}."
        )
    return torch.device(name)


def autocast(
    device: torch.device, precision: str
) -> tuple[Callable[[], AbstractContextManager], torch.dtype | None]:
    """What makes the contexts in which a model computes as ``training.precision`` says, and their type; None: float32."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and has_bfloat16(device) else "float32"
    dtype = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return (nullcontext if dtype is None else partial(torch.autocast, device.type, dtype)), dtype


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of handing them back to the system at once.

    Otherwise every large tensor is made of fresh pages, each of which costs a fault and is zeroed by the kernel: a
    fifth of a training step on the CPU. Must run before the first large tensor; elsewhere than on Linux it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt(m_mmap_threshold, 2**30)
    mallopt(m_trim_threshold, 2**31 - 1)


def choose_products() -> None:
    """Let oneDNN multiply float32 matrices where it loses no precision: on AMD twice as fast as MKL, the default.

    A training step of a small Transformer takes 0.61 of the time (two cores of an AMD EPYC with AVX-512). PyTorch hands
    products to oneDNN only when these may be computed in bfloat16. Whether they are depends on the processor (they are
    where it has AMX), so one product is tried and, if it is not what float32 gives, everything stays as it was.
    """
    torch.set_float32_matmul_precision("medium")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 64, generator=generator) for _ in range(2))
    error = (left @ right - left.double() @ right.double()).abs().max()
    if error > 1e-4:  # float32: 5e-6; bfloat16: 0.05
        torch.set_float32_matmul_precision("highest")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by instructions of its own, and not by emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
