"""Model and optimiser: one update, and the state that a checkpoint keeps."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.instance.trainers.chronos.lean_model import LeanChronos2
from chronos_ec2.instance.trainers.chronos.memory import keep_freed_memory
from chronos_ec2.instance.trainers.chronos.model import load_model, save_model
from chronos_ec2.instance.trainers.chronos.network import Network
from chronos_ec2.instance.trainers.chronos.optimizer import AdamW
from chronos_ec2.instance.trainers.chronos.processes import Processes
from chronos_ec2.instance.trainers.chronos.windows import Batch
from chronos_ec2.training_settings import ChronosConfig

OPTIMIZER: Final = "optimizer.pt"
_BF16_CAPABILITY: Final = (8, 0)
_WORTH_THREADS: Final = 5_000_000
"""Parameters from which on threads gain more than they cost each other in waiting."""


class Learner:
    """What is trained.

    Args:
        model: with the weights to start from.
        config: the settings.
        variates: series a window has, all attending to each other.
        processes: who share each update.
    """

    def __init__(self, model: Network, config: ChronosConfig, variates: int, processes: Processes) -> None:
        patches = -(-config.prediction_length // model.form.patch)
        self.model = model.to(processes.device)
        self.lean = LeanChronos2(self.model, variates, patches).to(processes.device)
        self._config, self._variates, self._processes = config, variates, processes
        self.precision = _precision(config.precision, processes.device)
        if processes.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        else:
            keep_freed_memory()
            if self.parameters < _WORTH_THREADS and "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(1)
        if config.torch_compile:
            # What cannot be compiled on this machine runs as it is, and says so in the log.
            torch._dynamo.config.suppress_errors = True
            self.lean.compile()
        self._module: nn.Module = self.lean
        if processes.size > 1:
            self._module = DistributedDataParallel(self.lean)
        self._trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self._optimizer = AdamW(self._trained, config.weight_decay, config.max_grad_norm)

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(weight.numel() for weight in self.model.parameters())

    def autocast(self) -> Any:
        """The precision to compute in."""
        if self.precision == "bf16":
            return torch.autocast(self._processes.device.type, torch.bfloat16)
        return nullcontext()

    def update(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Learn from this process's share of a batch.

        Args:
            batch: its windows.
            step: the update, from 1.

        Returns:
            Loss of the share and norm of the gradient, still on the device.
        """
        config = self._config
        # Dropout is a function of seed, step and process, as the windows are of seed and step.
        drawn = np.random.SeedSequence([config.seed, step, self._processes.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]))
        if not self.lean.training:
            self.lean.train()
        self._optimizer.forget_gradients()
        parts = _parts(batch, config.gradient_accumulation_steps, self._variates)
        total = torch.zeros((), device=self._processes.device)
        for number, part in enumerate(parts, 1):
            later = number < len(parts) and isinstance(self._module, DistributedDataParallel)
            with self._module.no_sync() if later else nullcontext():
                loss = self._loss(part.to(self._processes.device)) / len(parts)
                torch.autograd.backward(loss)
            total += loss.detach()
        return total, self._optimizer.step(config.learning_rate_at(step))

    def _loss(self, batch: Batch) -> Tensor:
        with self.autocast():
            loss: Tensor = self._module(batch.context, batch.target, batch.known)
        return loss

    def write(self, folder: Path) -> None:
        """Write model and optimiser into a checkpoint's folder; it is a folder of a model as well.

        Raises:
            OSError, ChronosError: the disk is full.
        """
        save_model(self.model, folder)
        try:
            torch.save(self._optimizer.state_dict(), folder / OPTIMIZER)
        except RuntimeError as error:  # torch has its own word for a full disk
            raise ChronosError(f"{folder / OPTIMIZER} cannot be written: {error}") from error

    def read(self, folder: Path) -> None:
        """Go on from what `write` wrote.

        Raises:
            SettingsError: it is of another model.
        """
        stored = load_model(folder).state_dict()
        try:
            self.model.load_state_dict(stored)
            state = torch.load(folder / OPTIMIZER, map_location=self._processes.device, weights_only=True)
            self._optimizer.load_state_dict(state)
        except (RuntimeError, ValueError, UnpicklingError) as error:
            reason = " ".join(str(error).split())
            raise SettingsError(
                f"{folder} does not fit this model: {reason}; start over with --fresh"
            ) from error

    def spoil(self) -> None:
        """Make the weights useless, to rehearse what happens then."""
        with torch.no_grad():
            for weight in self._trained:
                weight.fill_(torch.nan)


def _precision(wanted: str, device: torch.device) -> str:
    if wanted != "auto":
        return wanted
    computes = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY
    return "bf16" if computes else "fp32"


def _parts(batch: Batch, count: int, variates: int) -> list[Batch]:
    if count == 1:
        return [batch]
    rows = batch.context.shape[0] // count
    if rows * count != batch.context.shape[0] or rows % variates:
        raise SettingsError(
            "batch_size must be a multiple of gradient_accumulation_steps times the number of processes"
        )
    return [batch.part(slice(at, at + rows)) for at in range(0, rows * count, rows)]
