"""Which device computes, with how many threads, in which precision, and what makes it fast."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, partial

import torch

from .. import __version__
from .errors import UserError

FEW_ROWS = 8  # fewer are multiplied faster by PyTorch's default kernels


def prepare(name: str, threads: int | None = None, kernels: int = 64) -> torch.device:
    """The device of that name, set up to be fast; call it before the first large tensor is made. Raises UserError.

    ``kernels``: oneDNN and PyTorch each keep those for the last shapes of matrices, 1,024 by default, which in training
    is a gigabyte. A layer repeats the shapes of the one before, but few batches those of another: 64 are as fast.
    """
    keep_freed_memory()
    if (
        "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
    ):  # batches of many sizes would leave gaps in a GPU's memory
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    for name_of_cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name_of_cache, str(kernels))
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose(name)
    choose_products(device)
    return device


def versions(device: torch.device) -> dict[str, str]:
    """What computes: versions, the device and its name, the processor."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            processor = (
                next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
            )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "mtcli": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "processor": processor,
    }


def choose(name: str) -> torch.device:
    """The device of that name: cpu, cuda, cuda:N, mps; ``auto`` is cuda, else cpu. Raises UserError."""
    there, gpus = ["cpu"], torch.cuda.device_count()
    if gpus:
        there += ["cuda", *(f"cuda:{n}" for n in range(gpus))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name not in there:
        raise UserError(
            f"--device is '{name}', which this machine or this PyTorch does not have; there is: auto, {', '.join(there)}."
        )
    return torch.device(name)


def autocast(
    device: torch.device, precision: str
) -> tuple[Callable[[], AbstractContextManager], torch.dtype | None]:
    """A maker of contexts in which a model computes in ``training.precision``, and their type, None for float32.

    On a GPU it also decides, for the process, whether float32 products may be of TF32.
    """
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and has_bfloat16(device) else "float32"
    if device.type == "cuda":
        products = "tf32" if precision == "tf32" else "ieee"
        for place in (torch.backends.cuda.matmul, torch.backends.cudnn.rnn):  # type: ignore[attr-defined]
            place.fp32_precision = products  # type: ignore[union-attr]
    dtype = {"float32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[
        precision
    ]
    return (nullcontext if dtype is None else partial(torch.autocast, device.type, dtype)), dtype


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of returning them to the system at once.

    Otherwise every large tensor is made of fresh pages, each of which costs a fault and is zeroed by the kernel.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system or C library
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt(m_mmap_threshold, 2**30)
    mallopt(m_trim_threshold, 2**31 - 1)


def choose_products(device: torch.device, rows: int | None = None) -> None:
    """Choose how the CPU multiplies float32 matrices of ``rows`` rows (None: many), for the process, at no loss.

    It is never restored: a thread that chose otherwise meanwhile costs speed, not a result.
    """
    if device.type != "cpu":  # where the same setting would allow TF32
        return
    many = rows is None or rows >= FEW_ROWS
    wanted = "medium" if many and _onednn_is_exact() else "highest"
    if torch.get_float32_matmul_precision() != wanted:
        torch.set_float32_matmul_precision(wanted)


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN computes float32 products in float32 on this processor.

    PyTorch uses it only where bfloat16 is allowed ("medium"), which it then uses where the processor has AMX.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 64, generator=generator) for _ in range(2))
    error = (left @ right - left.double() @ right.double()).abs().max().item()
    torch.set_float32_matmul_precision(before)
    return error < 1e-4  # float32: 5e-6; bfloat16: 0.05


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, so that it is not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
