"""One cell of the matrix: a run that a fault strikes as it enters a phase, its end, and what is left."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.local_cloud.disk import mounts_below
from chronos_ec2.state.stored_checkpoints import list_stored
from chronos_ec2.workstation.reap_plan import STAGED_GRACE
from chronos_ec2.workstation.watch import watch
from chronos_ec2.workstation.watch_screen import PHASES
from outside_looks import processes_naming, until
from tools.doomed import later
from tools.fault_proxy import FaultProxy, Match, Request
from tools.lab import ENVIRONMENT, LATER, LIVE, Lab

_TRAINER: Final = """\
import os, sys, threading, time
from chronos_ec2.instance.trainers.linear_quantile import main

def told(word):
    return os.path.exists(os.environ["CHRONOS_ROOT"] + "/run/" + word)

def look():
    while not told("gpu-gone"):
        if told("memory-wanted"):
            hoard = b"x" * (64 << 20)
        time.sleep(0.1)
    print("CUDA error: GPU has fallen off the bus", file=sys.stderr, flush=True)
    os._exit(1)

threading.Thread(target=look, daemon=True).start()
sys.exit(main(sys.argv[1:]))
"""
STEPS: Final = 150
SAVED_EVERY: Final = 20
STRUCK_AT_STEP: Final = 45
SAVED_BY_THEN: Final = STRUCK_AT_STEP // SAVED_EVERY * SAVED_EVERY
TRAINING: Final = (
    *("--set", "trainer=command", "--set", f"max_steps={STEPS}"),
    *("--set", f"checkpoint_every_steps={SAVED_EVERY}", "--set", "heartbeat_seconds=1"),
    *("--set", "log_upload_seconds=1", "--set", "kill_grace_seconds=9", "--set", "sample_seconds=1"),
)
PATIENCE_SECONDS: Final = 900.0
"""From the strike until a machine that can end itself is gone; a hundred calls may take 5 s each."""
CODES: Final = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.RUN_FAILED,
    "lost": ExitCode.RUN_LOST,
    "interrupted": ExitCode.RUN_INTERRUPTED,
}


def trainer_command() -> str:
    """The test trainer in a process of its own, slow enough to be struck in the middle."""
    words = ("python3", "-c", _TRAINER, "--config", "{config}", "--data", "{data}", "--output", "{output}")
    return json.dumps([*words, "--step-seconds", "0.06"])


@dataclass
class Cell:
    """A run at the moment of the strike, and what a fault may do to it.

    Attributes:
        laptop: the laptop's way to AWS.
        proxy: the guest's way to AWS; its `fault` may be set.
        go_on: lets the held request go, for a strike at what comes after it.
        undone: what is put right again after the cell.
    """

    lab: Lab
    phase: str
    chance: random.Random
    laptop: FaultProxy
    proxy: FaultProxy
    undone: ExitStack
    run_id: str = ""
    instance_id: str = ""
    go_on: Callable[[], None] = lambda: None

    @property
    def disk(self) -> Path:
        """The guest's folder."""
        return self.lab.home / "instances" / self.instance_id

    def switch(self, name: str, text: str = "") -> None:
        """Turn a switch of the faulty cloud on, for this cell."""
        file = self.lab.home / name
        file.write_text(text)
        self.undone.callback(file.unlink, missing_ok=True)

    def spoil(self, key: str) -> None:
        """Alter one byte of an object, for this cell."""
        s3, bucket = self.lab.aws.s3, self.lab.bucket
        good = s3.get_object(Bucket=bucket, Key=key)
        body, metadata = good["Body"].read(), good["Metadata"]
        self.undone.callback(s3.put_object, Bucket=bucket, Key=key, Body=body, Metadata=metadata)
        middle = len(body) // 2
        spoilt = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        s3.put_object(Bucket=bucket, Key=key, Body=spoilt, Metadata=metadata)


def entering(phase: str) -> Match:
    """Matches the request that opens a phase; of the training, a heartbeat in its middle."""
    if phase == "training":
        return _heartbeat_in_the_middle
    wanted = f'"current_step":"{phase}"'.encode()
    return lambda request: str(request.operation) == "PutObject staged" and wanted in request.body


def _heartbeat_in_the_middle(request: Request) -> bool:
    if str(request.operation) != "PutObject staged":
        return False
    step = str(json.loads(request.body).get("current_step", ""))
    return step.startswith("step_") and int(step[len("step_") :]) >= STRUCK_AT_STEP


@dataclass(frozen=True)
class Fault:
    """What strikes, and what may become of the run.

    Attributes:
        strike: done while the request that opens the phase is held.
        ends: the outcomes that are right, by phase; a phase that is missing cannot be struck so.
        prepare: done before the launch.
        flags: further flags of the launch.
        moment: the request at which it strikes, by phase.
        by_itself: whether the machine ends itself; otherwise its schedule or `reap` does, once the run has
            come to its end where one of its `ends` is `succeeded`.
        says: what the error of a run that did not succeed names.
        on_console: what the console says of a run whose log cannot reach S3.
    """

    name: str
    strike: Callable[[Cell], None]
    ends: Mapping[str, tuple[str, ...]]
    prepare: Callable[[Cell], None] = lambda _cell: None
    flags: tuple[str, ...] = ()
    moment: Callable[[str], Match] = entering
    by_itself: bool = True
    says: str = ""
    on_console: str = ""


def always(*outcomes: str, **differently: tuple[str, ...] | str) -> dict[str, tuple[str, ...]]:
    """The same outcomes in every phase, but for some."""
    found = dict.fromkeys(PHASES, outcomes)
    for phase, other in differently.items():
        found[phase] = (other,) if isinstance(other, str) else other
    return found


def only(**outcomes: tuple[str, ...] | str) -> dict[str, tuple[str, ...]]:
    """Outcomes of the only phases that can be struck."""
    return {phase: (one,) if isinstance(one, str) else one for phase, one in outcomes.items()}


def play(lab: Lab, fault: Fault, phase: str, chance: random.Random) -> str:
    """Play one cell beside what earlier ones have left in the bucket; what the table says of it.

    Raises:
        AssertionError: the run ended otherwise than it should, or something is left.
    """
    with ExitStack() as undone, lab.proxy() as laptop, lab.proxy() as proxy:
        cell = Cell(lab, phase, chance, laptop, proxy, undone)
        undone.callback(lab.put_guests_to_sleep, True)
        fault.prepare(cell)
        lab.put_guests_to_sleep(False, proxy.url)
        proxy.hold(fault.moment(phase))
        command = ("--set", f"command={trainer_command()}")
        end = lab.launch(*TRAINING, *command, *fault.flags, url=laptop.url).wait()
        assert end.status == 0, end.stderr
        said = json.loads(end.stdout)
        cell.run_id, cell.instance_id = said["run_id"], said["instance_id"]
        held = proxy.wait_held(PATIENCE_SECONDS, unless=lambda: not lab.instances(), every=0.5)
        assert held is not None, f"the run never came to {phase}: {_console(cell)}"
        if PHASES.index(phase) >= PHASES.index("training"):
            until(lambda: _newest(cell) >= SAVED_BY_THEN, "no checkpoint came to S3", 20, every=0.3)
        cell.go_on = held.release
        fault.strike(cell)
        held.release()
        proxy.release_all()
        ended = _see_end(cell, fault)
        return _judge(cell, fault, ended)


def _see_end(cell: Cell, fault: Fault) -> str:
    """Wait until the machine has gone, and free what it left; who ended it."""
    lab = cell.lab
    gone = lambda: not lab.instances([*LIVE, "shutting-down"])  # noqa: E731
    ended = "itself"
    if fault.by_itself:
        until(gone, "the machine does not end", PATIENCE_SECONDS, every=0.3)
    else:
        if "succeeded" in fault.ends[cell.phase]:
            until(
                lambda: (lab.record(cell.run_id) or {}).get("outcome"),
                "it does not come to its end",
                every=0.3,
            )
        time.sleep(2)
        assert not gone(), "it ended itself after all"
        ended = "schedule" if lab.schedules() else "reap"
        if ended == "schedule":
            with later(lab, LATER):
                until(gone, "the schedule did not end it", 60)
    unfinished = (lab.record(cell.run_id) or {}).get("outcome") is None
    if lab.state() is not None or lab.staged() or not gone() or unfinished:
        code, words = lab.reap(later=LATER, url=cell.laptop.url)
        if lab.staged():  # a writer may be about to publish it, for an hour
            code, words = lab.reap(later=STAGED_GRACE + LATER, url=cell.laptop.url)
        assert code == ExitCode.OK, words
        until(gone, "reap did not end it", 30)
    return ended


def _judge(cell: Cell, fault: Fault, ended: str) -> str:
    lab = cell.lab
    record = lab.record(cell.run_id) or {}
    outcome = record.get("outcome")
    story = f"{fault.name} at {cell.phase}: {outcome}, ended by {ended}: {record.get('error')}"
    assert outcome in fault.ends[cell.phase], f"{story}\n{_log(cell) or _console(cell)}"
    assert outcome == "succeeded" or (record["error"] and fault.says in record["error"]), story
    code = watch(
        lab.aws.s3, lab.aws.ec2, lab.bucket, ENVIRONMENT, out=io.StringIO(), run_id=cell.run_id, follow=False
    )
    assert code == CODES[str(outcome)], f"{story}; watch ends with {code}"
    log = _log(cell)
    words = fault.on_console or f"run {cell.run_id} of {ENVIRONMENT} on {cell.instance_id}"
    assert words in (_console(cell) if fault.on_console else log), f"{story}: it left no word"
    if PHASES.index(cell.phase) >= PHASES.index("training"):
        whole = outcome == "succeeded" or cell.phase == "cleanup"
        assert _newest(cell) >= (STEPS if whole else SAVED_BY_THEN), f"{story}: {_newest(cell)}"
    _nothing_is_left(cell, story)
    return f"{outcome}{'' if ended == 'itself' else f', by {ended}'}{'' if log else ', console only'}"


def _nothing_is_left(cell: Cell, story: str) -> None:
    lab, disks = cell.lab, cell.lab.home / "instances"
    assert lab.instances() == {}, story
    assert lab.state() is None and lab.staged() == [], story
    until(lambda: not processes_naming(cell.disk), f"{story}: processes are left", 10)
    assert list(disks.iterdir()) == [], story
    assert mounts_below(disks) == [], story


def _newest(cell: Cell) -> int:
    """The step of the newest checkpoint in S3."""
    stored = list_stored(cell.lab.aws.s3, cell.lab.bucket, f"{ENVIRONMENT}/{cell.run_id}/")
    return max((one.step for one in stored), default=0)


def _log(cell: Cell) -> str:
    s3 = cell.lab.aws.s3
    try:
        key = f"{ENVIRONMENT}/{cell.run_id}/logs/bootstrap.log"
        return str(s3.get_object(Bucket=cell.lab.bucket, Key=key)["Body"].read().decode(errors="replace"))
    except s3.exceptions.NoSuchKey:
        return ""


def _console(cell: Cell) -> str:
    answer: dict[str, Any] = cell.lab.aws.ec2.get_console_output(InstanceId=cell.instance_id)
    return str(answer.get("Output", ""))
