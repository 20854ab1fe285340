"""One training run: go on from the newest checkpoint, learn, save, score, write the results."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from chronos_ec2.data.series import SeriesSet
from chronos_ec2.errors import ChronosError
from chronos_ec2.instance.events import EventWriter
from chronos_ec2.instance.metrics import season_from_spacing
from chronos_ec2.instance.trainers.artifact import save_model
from chronos_ec2.instance.trainers.checkpoints import (
    newest_checkpoint,
    save_checkpoint,
    take_request,
)
from chronos_ec2.instance.trainers.command_line import CHECKPOINTS, say
from chronos_ec2.instance.trainers.evaluation import HeldOut
from chronos_ec2.instance.trainers.model import Adam, LinearQuantileModel, Shape
from chronos_ec2.instance.trainers.rehearsal import Rehearsal, StopRequest
from chronos_ec2.instance.trainers.windows import Windows
from chronos_ec2.training_settings import LinearConfig

MODEL_PATH: Final = "models/model.pkl"
FORECASTS_PATH: Final = "forecasts.parquet"
_STATE: Final = "state.npz"


class Trainer:
    """One training run.

    Args:
        config: its settings.
        series: its data.
        output: the folder that it writes to.
        events: where it reports.
        stop: whether to stop.
        rehearsal: failures that were asked for.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        *,
        config: LinearConfig,
        series: SeriesSet,
        output: Path,
        events: EventWriter,
        stop: StopRequest,
        rehearsal: Rehearsal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._series, self._output = config, series, output
        self._events, self._stop, self._rehearsal, self._clock = events, stop, rehearsal, clock
        season = config.season_length or season_from_spacing(series.spacing_seconds, series.business_days)
        self._model = LinearQuantileModel(Shape(config.context_length, config.prediction_length, season))
        self._windows = Windows(series, config.context_length, config.prediction_length)
        self._held_out = HeldOut(series, self._windows, season)
        self._adam = Adam.fresh(self._model.weights)
        self._origin = {**config.result_keys(), "season_length": season, "data": series.fingerprint()}
        self._step = self._saved_step = 0
        self._loss = math.nan

    def run(self) -> bool:
        """Go on from the newest checkpoint, train, and write the results.

        Returns:
            True when all of it is done; False when a stop was requested before the last step.

        Raises:
            SettingsError: the checkpoint comes from other settings or data.
            ChronosError: the loss is not a finite number any more.
        """
        self._resume()
        self._announce()
        began, first = self._clock(), self._step
        interrupted = self._train()
        seconds = self._clock() - began
        self._events.emit("train_end", steps=self._step, seconds=round(seconds, 3), interrupted=interrupted)
        say(f"steps {first} to {self._step} of {self._config.max_steps} in {seconds:.1f} s")
        if interrupted:
            return False
        self._finish()
        return True

    def _resume(self) -> None:
        found, problems = newest_checkpoint(self._output / CHECKPOINTS)
        for problem in problems:
            self._warn(problem)
        if found is None:
            return
        found.refuse_other_origin(self._origin)
        with np.load(found.path / _STATE, allow_pickle=False) as stored:
            self._model.weights[...] = stored["weights"]
            self._adam = Adam(stored["adam_mean"], stored["adam_variance"])
        self._step = self._saved_step = found.step
        self._loss = found.loss
        self._events.emit("resume", step=found.step, path=f"{CHECKPOINTS}/{found.path.name}")

    def _announce(self) -> None:
        self._events.emit(
            "start",
            params=int(self._model.weights.size),
            series=len(self._series),
            rows=self._series.rows,
            dropped_short=self._series.dropped_short,
            data=self._series.report(),
            world_size=1,
            device="cpu",
            step=self._step,
            max_steps=self._config.max_steps,
            training_config=asdict(self._config),
            season_length=self._model.shape.season_length,
            versions=_versions(),
        )
        for line in self._series.warnings(self._config.prediction_length):
            self._warn(line)

    def _train(self) -> bool:
        config = self._config
        while self._step < config.max_steps:
            self._rehearsal.before_step(self._step + 1, self._stop)
            if self._stop.requested:
                self._save()
                return True
            self._take_step()
            if self._step % config.log_steps == 0 or self._step == config.max_steps:
                rate = self._learning_rate(self._step)
                self._events.emit("metric", step=self._step, loss=self._loss, lr=rate)
            if self._step % config.save_steps == 0 or self._step == config.max_steps:
                self._events.emit("eval", step=self._step, **self._held_out.score(self._model))
                self._save()
            if take_request(self._output / CHECKPOINTS):
                self._save()
        return False

    def _take_step(self) -> None:
        step = self._step + 1
        if step == self._rehearsal.nan_at_step:
            self._model.weights[...] = np.nan
        batch = self._windows.draw(self._config.seed, step, self._config.batch_size)
        loss, gradient = self._model.loss_and_gradient(batch)
        if not math.isfinite(loss):
            raise ChronosError(
                f"the loss of step {step} is {loss}: no result was written; lower learning_rate "
                f"(now {self._config.learning_rate}) or check the data"
            )
        self._adam.update(self._model.weights, gradient, step, self._learning_rate(step))
        self._step, self._loss = step, loss

    def _learning_rate(self, step: int) -> float:
        return self._config.learning_rate * (1 - (step - 1) / self._config.max_steps)

    def _save(self) -> None:
        if self._step == self._saved_step:
            return
        began = self._clock()
        path, size = save_checkpoint(
            self._output / CHECKPOINTS,
            self._step,
            self._write_state,
            loss=self._loss,
            origin=self._origin,
        )
        self._saved_step = self._step
        self._events.emit(
            "checkpoint",
            step=self._step,
            path=f"{CHECKPOINTS}/{path.name}",
            seconds=round(self._clock() - began, 3),
            bytes=size,
        )

    def _write_state(self, folder: Path) -> None:
        np.savez(
            folder / _STATE,
            weights=self._model.weights,
            adam_mean=self._adam.mean,
            adam_variance=self._adam.variance,
        )

    def _finish(self) -> None:
        metrics: dict[str, Any] = {
            **self._held_out.score(self._model),
            "train_loss": self._loss,
            "steps": self._step,
        }
        baselines = self._held_out.baselines()
        metadata = {"training_config": asdict(self._config), "metrics": metrics, "baselines": baselines}
        save_model(self._output / MODEL_PATH, self._model, metadata)
        self._held_out.write_forecasts(self._output / FORECASTS_PATH, self._model)
        self._events.emit(
            "final",
            metrics=metrics,
            baselines=baselines,
            model_path=MODEL_PATH,
            forecasts_path=FORECASTS_PATH,
            series=len(self._series),
            rows=self._series.rows,
        )
        naive = baselines["seasonal_naive"]
        say(
            f"held-out WQL {metrics['WQL']:.4f} (seasonal naive {naive['WQL']:.4f}), "
            f"MASE {metrics['MASE']:.4f} (seasonal naive {naive['MASE']:.4f})"
        )

    def _warn(self, message: str) -> None:
        self._events.emit("warning", message=message)
        say(f"warning: {message}")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": np.__version__, "pyarrow": pa.__version__}
