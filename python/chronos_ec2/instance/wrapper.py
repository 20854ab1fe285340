"""Runs a training command and looks after it: output, metrics, state file, signals, `training.json`.

usage: training_wrapper.py --config FILE --data DIR --output DIR
                           [--bucket B [--env E] [--run-id R]] [--grace-seconds N] [--model DIR]
                           [--nodes N --node-rank K --master HOST:PORT]
                           [-- COMMAND...]

Without COMMAND, `trainer` in the config says what runs: `chronos` is Chronos-2, one process for each GPU,
`test` the linear quantile model, `command` the config's `command`, in which {config}, {data}, {output} and
{checkpoints} stand for the paths, and {checkpoint_every_steps} for the setting. Without --bucket there is no
state file and no heartbeat; --env and --run-id default to the config's. --model is where the model lies that
`model_id` names in S3 (model_fetch.py). --nodes and what follows it tell the place of this machine among
those that train together; {nodes}, {node_rank}, {master_addr} and {master_port} stand for it in `command`.
Only the first one's trainer speaks, so that the others' events are not missed.

A command that tells no steps counts as training from its start to its end; of another one its first and its
last numbers count (`timeline` in training.json).

In the output folder: training.json, metrics.jsonl (appended), logs/training.log (appended).

TERM and INT are passed on to the command's process group; after --grace-seconds, or at a second signal, comes
SIGKILL. Exit: the command's own code (128+N for signal N); 1 when it says 0 and its numbers or events say
otherwise, or 75 after a loss of NaN; 75 or 128+N when it was interrupted and says 0; 0 when a signal came and
our own trainer has written its results all the same; 143 when the run has lost its state file; 126/127 when
it cannot be started; 2 usage; 26 a config that is off.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

from chronos_ec2.errors import ChronosError
from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.instance.checkpoint_files import RESTORED, read_note
from chronos_ec2.instance.collector import Collector
from chronos_ec2.instance.heartbeat import Heartbeat
from chronos_ec2.instance.place import Place
from chronos_ec2.instance.run_config import ENVIRONMENT, RUN_ID, RunConfig, load_run_config
from chronos_ec2.instance.trainer_command import ALONE, OWN_TRAINERS, count_gpus, trainer_argv
from chronos_ec2.instance.training_process import TrainingProcess
from chronos_ec2.instance.training_record import TrainingRecord, describe_data, file_facts
from chronos_ec2.instance.verdict import Ending, judge
from chronos_ec2.state.clock import to_milliseconds, utc_now
from chronos_ec2.state.store import StateStore
from chronos_ec2.state.stored_checkpoints import FOLDER

DEFAULT_GRACE_SECONDS: Final = 60.0
_PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]
_CANNOT_RUN: Final = 126
_NOT_FOUND: Final = 127


@dataclass(frozen=True, slots=True)
class Job:
    """One call of the wrapper, checked."""

    config: RunConfig
    trainer: str
    argv: tuple[str, ...]
    data: Path
    output: Path
    bucket: str | None
    environment: str
    run_id: str
    grace_seconds: float
    place: Place = ALONE


def say(message: str) -> None:
    """One line of talk on stderr; a closed stderr is no reason to stop."""
    try:
        os.write(2, f"training_wrapper: {message}\n".encode(errors="replace"))
    except OSError:
        return


def child_environment(environ: dict[str, str], grace_seconds: float) -> dict[str, str]:
    """The command's environment: unbuffered Python, this package importable from anywhere, time to stop."""
    path = environ.get("PYTHONPATH")
    return {
        "PYTHONUNBUFFERED": "1",
        # torchrun kills workers that take longer than 30 s to save, whatever time there is.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(grace_seconds)),
        **environ,
        "PYTHONPATH": f"{_PACKAGE_ROOT}{os.pathsep}{path}" if path else str(_PACKAGE_ROOT),
    }


def resumed_from(job: Job) -> dict[str, Any]:
    """Which run this one goes on from, and at which step if its trainer does not say it itself."""
    note = read_note(job.output / FOLDER, RESTORED)
    if not note:
        return {}
    step = None if job.trainer in OWN_TRAINERS else note.get("step")
    return {"resume_from": note.get("run_id"), "resumed_from_step": step}


def find_model(output: Path, told: str | None) -> dict[str, Any] | None:
    """Path, bytes and sha256 of the model: a regular file in the output folder, else None.

    Args:
        output: the run's output folder.
        told: where the trainer says that it lies; it may be anything.
    """
    try:
        output = output.resolve()
        path = (output / (told or "models/model.pkl")).resolve()
        if not path.is_relative_to(output) or not path.is_file():
            return None
        return {"path": str(path.relative_to(output)), **file_facts(path)}
    except (OSError, ValueError, RuntimeError):  # no name that a file can have; links that lead in a circle
        return None


class Session:
    """One training from start to verdict."""

    def __init__(self, job: Job, started_at: datetime) -> None:
        self._job = job
        about = {
            "trainer": job.trainer,
            "run_id": job.run_id,
            "environment": job.environment,
            "command": list(job.argv),
            "training_config": dict(job.config.training_config),
            "data": describe_data(job.data),
            **resumed_from(job),
        }
        self._record = TrainingRecord(about, started_at)
        self._collector = Collector(job.output, self._record, say)
        self._process = TrainingProcess(
            job.argv,
            env=child_environment({**dict(os.environ), **job.place.variables()}, job.grace_seconds),
            grace_seconds=job.grace_seconds,
            take_lines=self._collector.take,
            log=say,
        )
        self._heartbeat = self._make_heartbeat()
        self._signals: list[int] = []
        self._lost: str | None = None

    def run(self) -> int:
        """Train, write the record, return the exit code."""
        (self._job.output / FOLDER).mkdir(exist_ok=True)
        self._collector.save(self._record.document("running"))
        for caught in (signal.SIGTERM, signal.SIGINT):
            signal.signal(caught, self._on_signal)
        try:
            pid = self._process.start()
        except OSError as error:
            return self._fail_to_start(error)
        self._note_time("first_step")
        if self._signals:
            # it came while the command was being started
            self._process.stop(self._signals[0])
        if self._heartbeat is not None:
            self._heartbeat.start(pid)
        returncode = self._process.wait()
        self._note_time("last_step")
        signum = self._signals[0] if self._signals else None
        if self._heartbeat is not None:
            self._heartbeat.stop()
        ending = judge(
            returncode,
            self._record,
            signum=signum,
            lost=self._lost,
            needs_closing_events=self._job.trainer in OWN_TRAINERS and self._job.place.leads,
            last_words=self._collector.last_words,
        )
        return self._conclude(ending)

    def _note_time(self, milestone: str) -> None:
        """Count the time of a command's process as training, unless it tells of steps itself, as ours do."""
        if self._job.trainer == "command":
            self._record.process_time[milestone] = to_milliseconds(utc_now())

    def _fail_to_start(self, error: OSError) -> int:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN
        reason = f"the training command {self._job.argv[0]!r} cannot be started: {error.strerror}"
        return self._conclude(Ending("failed", code, reason))

    def _conclude(self, ending: Ending) -> int:
        told = self._record.model_path
        self._record.model_file = find_model(self._job.output, told)
        if told is not None and self._record.model_file is None:
            say(f"no model in training.json: {told[:200]!r} is no file in the output folder")
        document = self._record.document(
            ending.status, ended_at=utc_now(), exit_code=ending.exit_code, error=ending.error
        )
        self._collector.conclude(document)
        say(f"{ending.status}, exit {ending.exit_code}" + (f": {ending.error}" if ending.error else ""))
        return ending.exit_code

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self._signals.append(signum)
        again = len(self._signals) > 1
        say(f"got {signal.Signals(signum).name}: {'SIGKILL to' if again else 'passed on to'} the command")
        self._process.stop(signum, now=again)

    def _on_lost(self, reason: str) -> None:
        self._lost = reason
        say(f"{reason}; stopping the training")
        self._process.stop(signal.SIGTERM)

    def _make_heartbeat(self) -> Heartbeat | None:
        bucket = self._job.bucket
        if bucket is None:
            return None

        def open_store() -> StateStore:
            from chronos_ec2.instance.storage import make_client

            return StateStore(make_client(impatient=True), bucket, self._job.environment)

        return Heartbeat(
            open_store,
            self._job.run_id,
            interval_seconds=self._job.config.heartbeat_seconds,
            progress=lambda: self._record.label,
            timeline=lambda: self._record.timeline,
            on_lost=self._on_lost,
            log=say,
        )


def _parse(argv: Sequence[str]) -> Job:
    parser = argparse.ArgumentParser(
        prog="training_wrapper.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the run's config.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder with the training data")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--bucket", help="bucket of the state file; without it no heartbeat")
    parser.add_argument("--env", help="environment (default: the config's)")
    parser.add_argument("--run-id", help="run (default: the config's)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the start model, fetched")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines that train together")
    parser.add_argument("--node-rank", type=int, default=0, metavar="K", help="this one's number, from 0")
    parser.add_argument("--master", default="127.0.0.1:29500", metavar="HOST:PORT", help="the first one's")
    parser.add_argument("--grace-seconds", type=float, default=DEFAULT_GRACE_SECONDS, metavar="N")
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    given, command = parser.parse_args(words[:cut]), words[cut + 1 :]
    if cut < len(words) and not command:
        parser.error("nothing follows --: give the command, or leave -- out")
    if given.env is not None and not ENVIRONMENT.fullmatch(given.env):
        parser.error(f"--env {given.env!r}: expected {ENVIRONMENT.pattern}")
    if given.run_id is not None and not RUN_ID.fullmatch(given.run_id):
        parser.error(f"--run-id {given.run_id!r}: expected YYYY-MM-DD-HHMMSS")
    if not 0 <= given.grace_seconds <= 86400:
        parser.error("--grace-seconds: expected 0 to 86400")
    place = _place(parser, given)
    config_path, data, output = (path.absolute() for path in (given.config, given.data, given.output))
    config = load_run_config(config_path)
    model = given.model and given.model.absolute()
    return Job(
        config=config,
        trainer="command" if command else config.trainer,
        argv=tuple(command)
        or trainer_argv(config, config_path, data, output, gpus=count_gpus(config), model=model, place=place),
        data=data,
        output=output,
        bucket=given.bucket,
        environment=given.env or config.environment,
        run_id=given.run_id or config.run_id,
        grace_seconds=given.grace_seconds,
        place=place,
    )


def _place(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Place:
    host, _, port = given.master.rpartition(":")
    if not 0 <= given.node_rank < given.nodes:
        parser.error("--node-rank: expected 0 to --nodes less 1")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        parser.error(f"--master {given.master!r}: expected HOST:PORT")
    return Place(given.nodes, given.node_rank, host, int(port))


def main(argv: Sequence[str]) -> int:
    """Run the training that `argv` describes and return the exit status."""
    try:
        return Session(_parse(argv), utc_now()).run()
    except ChronosError as error:
        say(str(error))
        return error.exit_code
    except OSError as error:
        say(f"the output folder cannot be used: {error}")
        return ExitCode.FAILED
