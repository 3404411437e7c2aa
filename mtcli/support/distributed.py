"""What torchrun says: rank, world size, and the few things processes tell each other. Knows nothing of models or data.

Everything here works in a single process too, where there is nobody to talk to. Objects travel as JSON bytes over the
CPU.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATIENCE = timedelta(
    hours=2
)  # how long one process may work (say, build a cache) while the others wait for it


def rank() -> int:
    """Number of this process among all of them, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Number of this process on its machine, from 0: which GPU is its own."""
    return _number("LOCAL_RANK", 0)


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
    if world_size() == 1:
        return
    import torch
    import torch._dynamo  # loaded later, by DistributedDataParallel, it would hold the group for ever: see `shutdown`
    import torch.distributed as dist

    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise UserError(f"Training on several processes works on cpu and cuda, not on {kind}.")
    if kind == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise UserError(
                f"Process {rank()} needs GPU {local_rank()}, but this machine shows {torch.cuda.device_count()}. "
                "Give torchrun at most so many with --nproc-per-node."
            )
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        if world_size() == _number("LOCAL_WORLD_SIZE", 0):
            # torchrun keeps its store over restarts, with the addresses of processes that are gone (PyTorch's issue
            # 135712). On several machines, of which each counts its own restarts, it must be told not to.
            store = dist.PrefixStore(f"restart {_number('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(
            backend, store=store, rank=rank(), world_size=world_size(), timeout=PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Process {rank()} of {world_size()} cannot reach the others: {_first_line(error)}. "
            "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are torchrun's to set; for one process, unset them."
        ) from error


def shutdown() -> None:
    """Leave the other processes, which all must be done with this one; does nothing where `init` joined none.

    The group's threads end once nobody holds it any more. One that let go of a tensor while Python ends would abort the
    process ("terminate called without an active exception").
    """
    if world_size() == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # what DistributedDataParallel is made of refers to itself, and to the group


@contextmanager
def contact() -> Iterator[None]:
    """Within this, a collective that fails raises UserError: another process died or left."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"Process {rank()} of {world_size()} lost contact with the others: {_first_line(error)}. "
            "The first message above is the cause; the same command continues from the last checkpoint."
        ) from error


@contextmanager
def main_first() -> Iterator[None]:
    """What is within this is done by the main process first, and by the others once it is through."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over all processes, in place, on the tensor's own device; also returned."""
    if world_size() > 1:
        import torch.distributed as dist

        with contact():
            dist.all_reduce(tensor)
    return tensor


def barrier() -> None:
    """Go on when every process has come here."""
    all_agree(False)


def all_agree(flag: bool) -> bool:
    """Whether the flag is raised on any process: all get the same answer."""
    return any(gather_json(bool(flag)))


def broadcast_json(value: Any) -> Any:
    """The main process's value, on every process, as JSON gives it back (a tuple returns as a list).

    The other processes' values are ignored.
    """
    return gather_json(value if is_main() else None)[0]


def gather_json(value: Any) -> list[Any]:
    """Every process's value, in order of rank, on every process, as JSON gives them back."""
    text = json.dumps(value).encode()
    if world_size() == 1:
        return [json.loads(text)]
    import torch
    import torch.distributed as dist

    with contact():
        length = torch.tensor([len(text)])
        lengths = [torch.zeros_like(length) for _ in range(world_size())]
        dist.all_gather(lengths, length)
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        rows = [torch.zeros_like(padded) for _ in range(world_size())]
        dist.all_gather(rows, padded)
    return [json.loads(bytes(row[: int(length)].tolist())) for row, length in zip(rows, lengths)]


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or (name == "WORLD_SIZE" and int(text) == 0):
        raise UserError(
            f"The environment variable {name} is {text!r}, not a number that torchrun could have set."
        )
    return int(text)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
