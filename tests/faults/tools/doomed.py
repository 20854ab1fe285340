"""Machines that something has gone wrong with, for the proofs of the dead man's switches.

On such a machine a minute lasts a second: its `sleep` and its `shutdown` count that way. Everything else is
the image's own, and the user data is the launch's.
"""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from chronos_ec2.state.clock import to_text, utc_now
from chronos_ec2.workstation.launch_files import user_data_values
from chronos_ec2.workstation.outside_switch import switch_name
from chronos_ec2.workstation.render import render_user_data
from chronos_ec2.workstation.switch_service import OutsideSwitches
from outside_looks import until
from tools.fault_proxy import Request
from tools.lab import ENVIRONMENT, SCHEDULE_GROUP, Lab

RUN: Final = "2025-01-15-143022"
DEADLINE: Final = timedelta(minutes=20)
_SLEEP: Final = """#!/bin/sh
exec {sleep} "$(awk -v seconds="$1" 'BEGIN {{ print seconds / 60 }}')"
"""
_BROKEN: Final = """#!/bin/sh
case $* in *now*) echo "$*" >>"$CHRONOS_ROOT/run/refused" && exit 1 ;; esac
"""
_HANGING: Final = "#!/bin/sh\nexec {sleep} 600\n"
_WORKING: Final = '#!/bin/sh\nexec {python} -I -m awscli "$@"\n'


def s3_is_gone(request: Request) -> str | None:
    """S3 answers nobody; EC2 and the scheduler do."""
    other = request.target == "/" or request.target.startswith("/schedules")
    return None if other or "x-amz-target" in request.headers else "503"


@contextmanager
def silent_network() -> Iterator[str]:
    """The URL of an AWS that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def write_programs(lab: Lab, *, power: bool, aws: bool) -> Path:
    """The folder of programs of a doomed machine.

    Args:
        power: whether `shutdown` does what it says; a broken one takes a time and does nothing then, and
            what it refuses to do at once it writes to run/refused.
        aws: whether the AWS CLI runs at all, or hangs.
    """
    folder = lab.folder / f"programs-{power:d}{aws:d}"
    folder.mkdir(exist_ok=True)
    sleep = shutil.which("sleep")
    shutdown = (lab.home / "image" / "bin" / "shutdown").read_text()
    texts = {
        "sleep": _SLEEP.format(sleep=sleep),
        "shutdown": shutdown.replace("* 60", "* 1") if power else _BROKEN,
        "aws": _WORKING.format(python=sys.executable) if aws else _HANGING.format(sleep=sleep),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def user_data(lab: Lab, deadline: datetime, minutes: int) -> str:
    """What a launch sends, with a deadline and the minutes that the machine may live."""
    nothing = {"archive": "none.tar.gz", "sha256": "0" * 64, "pieces_sha256": "0" * 64}
    digests = {"scripts_sha256": "0" * 64, "dataset_sha256": "0" * 64}
    facts = {"run_id": RUN, "bucket": lab.bucket, "environment_archive": nothing, **digests}
    values = user_data_values(lab.aws.settings, facts, deadline)
    return render_user_data({**values, "deadline_minutes": minutes})


class Doomed:
    """A machine of a run, as a launch leaves it: claimed, recorded, tagged, and booted with its user data."""

    def __init__(self, lab: Lab, *, minutes: int, programs: Path | None, endpoint: str | None) -> None:
        self.lab = lab
        self.deadline = utc_now() + DEADLINE
        (lab.home / "guest-programs").unlink(missing_ok=True)
        if programs is not None:
            (lab.home / "guest-programs").write_text(str(programs))
        lab.put_guests_to_sleep(programs is None, endpoint)
        tags = {"Project": "Chronos-Training", "Environment": ENVIRONMENT, "RunId": RUN}
        tags["Deadline"] = to_text(self.deadline)
        answer = lab.aws.ec2.run_instances(
            ImageId="ami-0c55b159cbfafe1f0",
            InstanceType="t3.medium",
            MinCount=1,
            MaxCount=1,
            UserData=user_data(lab, self.deadline, minutes),
            InstanceInitiatedShutdownBehavior="terminate",
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
            ],
        )
        self.id = str(answer["Instances"][0]["InstanceId"])
        self.disk = lab.home / "instances" / self.id
        lab.claim(RUN, status="initialization", instance_id=self.id)

    def wait_for(self, file: str, seconds: float = 180) -> None:
        """Wait until the machine has written a file of its disk."""
        self.wait_until((self.disk / file).exists, f"{file} is missing", seconds)

    def wait_for_refusals(self, times: int, seconds: float = 180) -> None:
        """Wait until the machine's broken `shutdown` was called so often."""
        calls = self.disk / "run" / "refused"
        self.wait_until(
            lambda: len(calls.read_text().splitlines()) >= times, "shutdown was not called", seconds
        )

    def wait_until(
        self, condition: Callable[[], bool], complaint: str = "it never came", seconds: float = 180
    ) -> None:
        """Wait until something is so."""
        until(condition, f"{self.id}: {complaint}", seconds, every=0.15)

    def jump(self, span: timedelta) -> None:
        """Set the machine's clock."""
        (self.disk / "run" / "clock-offset").write_text(str(int(span.total_seconds())))

    def reboot(self) -> None:
        """Reboot the machine, as EC2 does when the hardware below it fails."""
        self.lab.aws.ec2.reboot_instances(InstanceIds=[self.id])

    def arm_outside(self) -> None:
        """Arm the outside switch, as a launch does."""
        aws = self.lab.aws
        switches = OutsideSwitches(aws.client("scheduler"), SCHEDULE_GROUP, aws.exports["SchedulerRoleArn"])
        switches.arm(ENVIRONMENT, RUN, self.id, self.deadline)

    def reason(self, seconds: float = 180) -> str:
        """Who ended it: EC2's code, once it is terminated."""
        self.wait_until(lambda: self.state == "terminated", "it lives", seconds)
        return str(self._described()["StateReason"]["Code"])

    @property
    def state(self) -> str:
        """EC2's word for it."""
        return str(self._described()["State"]["Name"])

    def _described(self) -> Any:
        answer = self.lab.aws.ec2.describe_instances(InstanceIds=[self.id])
        return answer["Reservations"][0]["Instances"][0]


@contextmanager
def later(lab: Lab, span: timedelta) -> Iterator[None]:
    """The clock of the scheduler goes ahead, and is right again afterwards."""
    clock = lab.home / "clock-offset"
    clock.write_text(str(span.total_seconds()))
    try:
        yield
    finally:
        clock.unlink()


NAME: Final = switch_name(ENVIRONMENT, RUN)
