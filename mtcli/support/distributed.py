"""What torchrun says of this process, and the few things that processes tell each other; one process works too."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    import torch

LIMIT = timedelta(
    minutes=10
)  # for an exchange of gradients, to which all come at about the same time
TO_START = timedelta(hours=1)  # for all to be there
NO_LIMIT = timedelta(
    days=100
)  # for all else, where some wait while others work: learn, validate, save

_group: Any = None  # in which all else is exchanged, on the CPU
_store: Any = None


class LostPeer(UserError):
    """Another process died or left."""


def rank() -> int:
    """Number of this process among all of them, from 0."""
    return _number("RANK")


def local_rank() -> int:
    """Number of this process on its machine, from 0: which GPU is its own."""
    return _number("LOCAL_RANK")


def world_size() -> int:
    """How many processes train together."""
    return _number("WORLD_SIZE", 1)


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


def init(device: torch.device | str) -> None:
    """Join the other processes, which must all call this; with CUDA, choose this process's GPU.

    Raises UserError where torchrun's variables do not fit together or the others cannot be reached.
    """
    global _group, _store
    me, count = rank(), world_size()
    if count == 1:
        return
    import torch
    import torch._dynamo  # if DistributedDataParallel loads it later, it keeps the group: see `shutdown`
    import torch.distributed as dist

    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise UserError(f"Training on several processes works on cpu and cuda, not on {kind}.")
    if kind == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise UserError(
                f"Process {me} needs GPU {local_rank()}, but this machine shows {torch.cuda.device_count()}. "
                "Give torchrun at most that number with --nproc-per-node."
            )
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=TO_START))
        if count == _number("LOCAL_WORLD_SIZE"):
            # torchrun's store keeps the addresses of processes that are gone (PyTorch's issue 135712). Each of several
            # machines counts its own restarts: there torchrun must be told to drop the store.
            store = dist.PrefixStore(f"restart {_number('TORCHELASTIC_RESTART_COUNT')}", store)
        dist.init_process_group(backend, store=store, rank=me, world_size=count, timeout=LIMIT)
        _group, _store = dist.new_group(backend="gloo", timeout=NO_LIMIT), store
    except (RuntimeError, ValueError) as error:
        hint = "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set by torchrun; for one process, unset them."
        raise UserError(_failure("cannot reach the others", error, hint)) from error


def shutdown() -> None:
    """Leave the other processes, when all are done with this one; does nothing where `init` joined none.

    A thread of the group that is still running when Python ends would abort the process.
    """
    if world_size() == 1:
        return
    import torch.distributed as dist

    global _group
    if dist.is_initialized():
        _group = None
        dist.destroy_process_group()
        gc.collect()  # DistributedDataParallel's parts refer to themselves, and to the group


@contextmanager
def contact() -> Iterator[None]:
    """Within this, an exchange that fails raises LostPeer; other errors are left as they are."""
    try:
        yield
    except RuntimeError as error:
        if not (
            type(error).__name__.startswith("Dist") or "gloo" in str(error) or "NCCL" in str(error)
        ):
            raise
        hint = "The first message above is the cause; the same command continues from the last checkpoint."
        raise LostPeer(_failure("lost contact with the others", error, hint)) from error


@contextmanager
def told_once() -> Iterator[None]:
    """Within this, an error that several processes have is raised by one of them; the others exit with 1.

    That a process was lost is raised only where none said why it left.
    """
    try:
        yield
    except Exception as error:
        if _is_told(error):
            raise SystemExit(1) from error
        raise


def _is_told(error: Exception) -> bool:
    """Whether another process has told of an error; if not, remember for the others that this one does."""
    if _store is None:
        return False
    same = hashlib.sha256(str(error).encode("utf-8", "replace")).hexdigest()
    try:
        any_told, same_told = (_store.add(f"told {key}", 1) > 1 for key in ("any", same))
    except RuntimeError:  # the store was the main process's, which is gone
        return False
    return any_told if isinstance(error, LostPeer) else same_told


@contextmanager
def main_first() -> Iterator[None]:
    """What is within this is done by the main process first, then by the others; all leave it together."""
    if not is_main():
        meet()
    yield
    if is_main():
        meet()
    meet()


def meet() -> None:
    """Wait for all processes, without a limit: after what one does alone, before gradients are exchanged."""
    gather_json(None)


def broadcast_json(value: Any) -> Any:
    """The main process's value, on every process, as JSON gives it back (a tuple returns as a list)."""
    return gather_json(value if is_main() else None)[0]


def gather_json(value: Any) -> list[Any]:
    """Every process's value, in order of rank, on every process, as JSON gives them back. All wait for all."""
    text = json.dumps(value).encode()
    if world_size() == 1:
        return [json.loads(text)]
    import torch
    import torch.distributed as dist

    with contact():
        length = torch.tensor([len(text)])
        lengths = [torch.zeros_like(length) for _ in range(world_size())]
        dist.all_gather(lengths, length, group=_group)
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        rows = [torch.zeros_like(padded) for _ in range(world_size())]
        dist.all_gather(rows, padded, group=_group)
    return [json.loads(bytes(row[: int(length)].tolist())) for row, length in zip(rows, lengths)]


def _number(name: str, default: int = 0) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or (name == "WORLD_SIZE" and int(text) == 0):
        raise UserError(
            f"The environment variable {name} is {text!r}, not a number that torchrun could have set."
        )
    return int(text)


def _failure(what: str, error: Exception, hint: str) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"Process {rank()} of {world_size()} {what}: {first}. {hint}"
