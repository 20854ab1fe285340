"""The processes of a training run: one a GPU, started by torchrun, or this one alone."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

_PATIENCE: Final = timedelta(minutes=30)


class Processes:
    """This process's place among all; every method must be called by all of them alike.

    Attributes:
        rank, size: this process's number, and how many there are.
        device: where it computes.
    """

    def __init__(self, accelerator: str) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        if accelerator == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        else:
            self.device = torch.device("cpu")
        self._control: Any = None
        # torchrun sets it, also for one process.
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group("nccl" if accelerator == "cuda" else "gloo", timeout=_PATIENCE)
            # Flags live on the CPU: reading one must not wait for the GPU.
            self._control = dist.new_group(backend="gloo", timeout=_PATIENCE)

    @property
    def leads(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there is anybody to talk to."""
        return self._control is not None

    def share(self, size: int) -> slice:
        """This process's part of `size` things; a multiple of all processes gives all the same number."""
        return slice(self.rank, size, self.size)

    def highest(self, *values: int) -> tuple[int, ...]:
        """The highest of all processes' values, one by one."""
        if not self.many:
            return values
        found = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._control)
        return tuple(int(value) for value in found)

    def mean(self, value: float) -> float:
        """The mean of all processes' values."""
        if not self.many:
            return value
        found = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(found, op=dist.ReduceOp.SUM, group=self._control)
        return float(found) / self.size

    def gather(self, part: Any) -> list[Any]:
        """All processes' parts, in the order of their ranks."""
        if not self.many:
            return [part]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part, group=self._control)
        return parts

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.many:
            dist.barrier(group=self._control)

    def close(self) -> None:
        """Take leave; a process that just ended would make torchrun call a finished run a failure."""
        if self.many and dist.is_initialized():
            dist.destroy_process_group()
            self._control = None
