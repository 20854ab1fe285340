"""One training run: go on from the newest checkpoint, learn, save, score, write the results."""

from __future__ import annotations

import hashlib
import math
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.instance.events import EventWriter
from chronos_ec2.instance.metrics import seasons_from_spacing
from chronos_ec2.instance.trainers.checkpoints import (
    Checkpoint,
    newest_checkpoint,
    save_checkpoint,
    take_request,
)
from chronos_ec2.instance.trainers.chronos.artifact import write_pickle
from chronos_ec2.instance.trainers.chronos.feed import Feed
from chronos_ec2.instance.trainers.chronos.held_out import HeldOut
from chronos_ec2.instance.trainers.chronos.learner import Learner
from chronos_ec2.instance.trainers.chronos.model import load_model, random_model, save_model
from chronos_ec2.instance.trainers.chronos.network import Network
from chronos_ec2.instance.trainers.chronos.processes import Processes
from chronos_ec2.instance.trainers.chronos.windows import Batch, Windows
from chronos_ec2.instance.trainers.command_line import CHECKPOINTS, say
from chronos_ec2.instance.trainers.files import sha256_of
from chronos_ec2.instance.trainers.rehearsal import Rehearsal, StopRequest
from chronos_ec2.start_model import MODEL_FILES
from chronos_ec2.training_settings import RANDOM, ChronosConfig

MODEL_FOLDER: Final = "models/chronos2"
PICKLE_PATH: Final = "models/model.pkl"
FORECASTS_PATH: Final = "forecasts.parquet"
_REMEDIES: Final = {"precision": "set precision to what it was, or take a GPU on which auto is that"}


class Trainer:
    """One training run, in each of its processes.

    Args:
        config: its settings.
        series: its data.
        output: the folder that it writes to.
        start_model: the folder of the model that `model_id` names; None where `model_id` is that folder.
        events: where it reports; used by the leading process alone.
        stop: whether to stop.
        rehearsal: failures that were asked for.
        processes: who train together.
        clock: seconds that only rise.

    Raises:
        SettingsError: the settings do not fit each other, the processes or the start model.
    """

    def __init__(
        self,
        *,
        config: ChronosConfig,
        series: SeriesSet,
        output: Path,
        start_model: Path | None = None,
        events: EventWriter,
        stop: StopRequest,
        rehearsal: Rehearsal,
        processes: Processes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._series, self._output = config, series, output
        self._events, self._stop, self._rehearsal = events, stop, rehearsal
        self._processes, self._clock = processes, clock
        if config.batch_size % (processes.size * config.gradient_accumulation_steps):
            raise SettingsError(
                f"batch_size {config.batch_size} must be a multiple of gradient_accumulation_steps times the "
                f"{processes.size} processes"
            )
        near, far = seasons_from_spacing(series.spacing_seconds, series.business_days)
        self._seasons = (config.season_length or near, far)
        self._windows = Windows(series, config)
        model, start = self._start_model(start_model)
        self._learner = Learner(model, config, self._windows.variates, processes)
        self._held_out = HeldOut(
            series,
            self._windows,
            config,
            season_length=self._seasons[0],
            processes=processes,
            autocast=self._learner.autocast,
        )
        self._start = start
        # It reads all of the data, and is asked for with the first checkpoint.
        beside = ThreadPoolExecutor(1, thread_name_prefix="fingerprint")
        self._fingerprint = beside.submit(series.fingerprint)
        beside.shutdown(wait=False)
        self._step = self._saved_step = 0
        self._losses: list[torch.Tensor] = []
        self._loss = math.nan

    @property
    def _origin(self) -> dict[str, Any]:
        """What a checkpoint comes from: another of these cannot be gone on with."""
        return {
            "trainer": "chronos",
            **self._config.result_keys(),
            # Not `auto`: on another machine that may be another one.
            "precision": self._learner.precision,
            "season_length": self._seasons[0],
            "start_model": self._start,
            "data": self._fingerprint.result(),
        }

    def run(self) -> bool:
        """Go on from the newest checkpoint, train, and write the results.

        Returns:
            True when all of it is done; False when a stop was requested before the last step.

        Raises:
            SettingsError: the checkpoint comes from other settings or data.
            ChronosError: the loss is not a finite number any more.
        """
        found = self._resume()
        zero_shot = self._zero_shot() if self._config.fine_tuning else None
        if found is not None:
            self._learner.read(found.path)
        self._announce()
        began, first = self._clock(), self._step
        interrupted = self._train()
        seconds = self._clock() - began
        self._emit("train_end", steps=self._step, seconds=round(seconds, 3), interrupted=interrupted)
        self._tell(f"steps {first} to {self._step} of {self._config.max_steps} in {seconds:.1f} s")
        if interrupted:
            return False
        rate = (self._step - first) / seconds if seconds > 0 else 0.0
        self._finish(zero_shot, rate)
        return True

    def _start_model(self, fetched: Path | None) -> tuple[Network, str]:
        if not self._config.fine_tuning:
            return random_model(self._config), RANDOM
        folder = fetched or Path(self._config.model_id)
        if not folder.is_dir():
            raise SettingsError(f"model_id {self._config.model_id}: {folder} is not a folder")
        return load_model(folder, self._config), _digest_of_model(folder)

    def _resume(self) -> Checkpoint | None:
        found, problems = newest_checkpoint(self._output / CHECKPOINTS)
        for problem in problems:
            self._warn(problem)
        step = 0 if found is None else found.step
        highest, lowest = self._processes.highest(step, -step)
        if highest != -lowest:
            raise ChronosError(f"the processes found different checkpoints: steps {-lowest} to {highest}")
        if found is None:
            return None
        found.refuse_other_origin(self._origin, _REMEDIES)
        self._step = self._saved_step = found.step
        self._loss = found.loss
        self._emit("resume", step=found.step, path=f"{CHECKPOINTS}/{found.path.name}")
        return found

    def _announce(self) -> None:
        self._emit(
            "start",
            params=self._learner.parameters,
            series=len(self._series),
            rows=self._series.rows,
            dropped_short=self._series.dropped_short,
            data=self._series.report(),
            world_size=self._processes.size,
            device=_device_name(self._processes.device),
            precision=self._learner.precision,
            step=self._step,
            max_steps=self._config.max_steps,
            training_config=asdict(self._config),
            season_length=self._seasons[0],
            versions=_versions(),
        )
        for line in self._series.warnings(self._config.prediction_length):
            self._warn(line)

    def _train(self) -> bool:
        share = self._processes.share(self._config.batch_size)

        def draw(step: int) -> Batch:
            batch = self._windows.draw(self._config.seed, step, self._config.batch_size, share)
            return batch.pinned() if self._processes.device.type == "cuda" else batch

        with Feed(draw, self._step + 1, self._config.max_steps) as feed:
            return self._take_steps(feed)

    def _take_steps(self, feed: Feed) -> bool:
        config = self._config
        while self._step < config.max_steps:
            self._rehearsal.before_step(self._step + 1, self._stop)
            asked = self._processes.leads and take_request(self._output / CHECKPOINTS)
            stop, save = self._processes.highest(int(self._stop.requested), int(asked))
            if stop or save:
                self._save()
            if stop:
                return True
            self._take_step(feed.take())
            last = self._step == config.max_steps
            if last or self._step % config.log_steps == 0:
                self._report_loss()
            if last or self._step % config.save_steps == 0:
                # First: a machine that is taken back while it scores loses no step.
                self._save()
                which = self._held_out.choice()
                score = self._held_out.score(self._held_out.forecast(self._learner.lean, which), which)
                self._emit("eval", step=self._step, series=len(which), **score)
        return False

    def _take_step(self, batch: Batch) -> None:
        step = self._step + 1
        if step == self._rehearsal.nan_at_step:
            self._learner.spoil()
        loss, self._norm = self._learner.update(batch, step)
        self._losses.append(loss)
        self._step = step

    def _report_loss(self) -> None:
        self._settle_loss()
        rate = self._config.learning_rate_at(self._step)
        self._emit("metric", step=self._step, loss=self._loss, lr=rate, grad_norm=float(self._norm))

    def _settle_loss(self) -> None:
        """Read the losses from the device, which waits for it: only where they are told or saved.

        Raises:
            ChronosError: one is not a finite number: no checkpoint or result is made from such weights.
        """
        if not self._losses:
            return
        losses = torch.stack(self._losses).tolist()
        self._losses.clear()
        self._loss = self._processes.mean(losses[-1])
        total = self._processes.mean(math.fsum(losses))
        if not math.isfinite(total):
            at = next((at for at, loss in enumerate(losses) if not math.isfinite(loss)), len(losses) - 1)
            step = self._step - len(losses) + 1 + at
            raise ChronosError(
                f"the loss of step {step} is {losses[at]}: no result was written; lower learning_rate "
                f"(now {self._config.peak_learning_rate}) or check the data"
            )

    def _save(self) -> None:
        self._settle_loss()
        if self._step == self._saved_step:
            return
        if not math.isfinite(norm := float(self._norm)):
            # Its update is in the weights, and in no loss yet: they would be gone on from for ever.
            raise ChronosError(
                f"the gradient of step {self._step} is {norm}: no checkpoint was written; lower "
                f"learning_rate (now {self._config.peak_learning_rate}) or check the data"
            )
        self._saved_step = self._step
        if not self._processes.leads:
            return
        began = self._clock()
        path, size = save_checkpoint(
            self._output / CHECKPOINTS, self._step, self._learner.write, loss=self._loss, origin=self._origin
        )
        seconds = round(self._clock() - began, 3)
        where = f"{CHECKPOINTS}/{path.name}"
        self._emit("checkpoint", step=self._step, path=where, seconds=seconds, bytes=size)

    def _zero_shot(self) -> dict[str, float]:
        """The start model's score, before it learns."""
        which = self._held_out.everything()
        return self._held_out.score(self._held_out.forecast(self._learner.lean, which), which)

    def _finish(self, zero_shot: dict[str, float] | None, rate: float) -> None:
        which = self._held_out.everything()
        forecast = self._held_out.forecast(self._learner.lean, which)
        if not self._processes.leads:
            return
        metrics: dict[str, Any] = {
            **self._held_out.score(forecast, which),
            "train_loss": self._loss,
            "steps": self._step,
            "steps_per_second": round(rate, 3),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        near, far = self._seasons
        naive = {
            season: {"season_length": season, **self._held_out.naive(which, season)} for season in {near, far}
        }
        baselines = {"seasonal_naive": naive[near], "seasonal_naive_long": naive[far], "zero_shot": zero_shot}
        facts = {"training_config": _plain_config(self._config), "metrics": metrics, "baselines": baselines}
        save_model(self._learner.model, self._output / MODEL_FOLDER)
        write_pickle(self._output / PICKLE_PATH, self._output / MODEL_FOLDER, facts)
        self._held_out.write(self._output / FORECASTS_PATH, forecast)
        self._emit(
            "final",
            metrics=metrics,
            baselines=baselines,
            model_path=PICKLE_PATH,
            model_folder=MODEL_FOLDER,
            forecasts_path=FORECASTS_PATH,
            series=len(self._series),
            rows=self._series.rows,
        )
        for name, figures in {"held-out": metrics, **baselines}.items():
            if figures:
                self._tell(f"{name}: WQL {figures['WQL']:.4f}, MASE {figures['MASE']:.4f}")

    def _emit(self, event: str, **fields: Any) -> None:
        if self._processes.leads:
            self._events.emit(event, **fields)

    def _tell(self, text: str) -> None:
        if self._processes.leads:
            say(text)

    def _warn(self, message: str) -> None:
        self._emit("warning", message=message)
        self._tell(f"warning: {message}")


def _plain_config(config: ChronosConfig) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def _digest_of_model(folder: Path) -> str:
    """Of all that a start model is: its config.json has what dropout, norms and positions go by."""
    digests = [sha256_of(folder / name) for name in MODEL_FILES]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _device_name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu"


def _versions() -> dict[str, str]:
    packages = ("torch", "safetensors", "numpy", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
