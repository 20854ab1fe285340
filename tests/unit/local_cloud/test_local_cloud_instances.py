"""Instances live and die as on EC2, and nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chronos_ec2.local_cloud import control, disk
from outside_looks import until

Check = Callable[..., bool]
BASH = "#!/usr/bin/env bash\n"


def reported_pid(cloud: Any, instance: str, name: str, eventually: Check) -> int:
    """A process id that the guest wrote into its disk."""
    file: Path = cloud.disk(instance) / name
    assert eventually(lambda: file.exists() and file.read_text().strip().isdigit()), cloud.console(instance)
    return int(file.read_text())


def test_user_data_runs_and_power_off_terminates(cloud: Any, eventually: Check) -> None:
    script = (
        BASH + 'cmp "$0" var/lib/cloud/instance/user-data.txt && echo same\n'
        'echo hello > "$HOME/greeting"; cat "$HOME/greeting"\n'
        "until [[ -e go ]]; do sleep 0.02; done\n"
        "shutdown -P now; sleep 60\n"
    )
    instance = cloud.boot(script)
    assert eventually(lambda: (cloud.disk(instance) / "root/greeting").exists())
    assert cloud.state(instance) == "running"
    (cloud.disk(instance) / "go").touch()
    assert cloud.ends_as(instance, "terminated")
    assert not cloud.disk(instance).exists()
    assert cloud.instance(instance)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert "same\nhello\n" in cloud.console(instance)


def test_power_off_stops_when_that_is_the_behaviour_and_start_does_not_run_user_data_again(
    cloud: Any, eventually: Check
) -> None:
    per_boot = "var/lib/cloud/scripts/per-boot/10-again"
    script = (
        BASH + f"printf '#!/bin/sh\\necho booted again\\n' > {per_boot}; chmod +x {per_boot}\n"
        "echo user data ran\npoweroff\n"
    )
    instance = cloud.boot(script, InstanceInitiatedShutdownBehavior="stop")
    assert cloud.ends_as(instance, "stopped")
    assert cloud.disk(instance).exists()
    assert cloud.instance(instance)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    cloud.ec2.start_instances(InstanceIds=[instance])
    assert eventually(lambda: "booted again" in cloud.console(instance))
    assert cloud.console(instance).count("user data ran") == 1
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.ends_as(instance, "terminated")
    assert not cloud.disk(instance).exists()


def test_reboot_comes_back_without_the_user_data(cloud: Any, eventually: Check) -> None:
    instance = cloud.boot(BASH + "echo user data ran\nreboot\nsleep 60\n")
    assert eventually(lambda: cloud.console(instance).count("Booting.") == 2)
    assert cloud.console(instance).count("user data ran") == 1
    assert cloud.state(instance) == "running"
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.ends_as(instance, "terminated")


def test_terminate_kills_a_script_that_hangs_and_ignores_signals(
    cloud: Any, eventually: Check, is_alive: Check
) -> None:
    instance = cloud.boot(BASH + "trap '' TERM INT\necho $$ > pid\nwhile :; do sleep 5; done\n")
    pid = reported_pid(cloud, instance, "pid", eventually)
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.state(instance) == "shutting-down"
    assert cloud.ends_as(instance, "terminated")
    assert not is_alive(pid)
    assert not cloud.disk(instance).exists()
    assert cloud.instance(instance)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    for call in (cloud.ec2.stop_instances, cloud.ec2.start_instances):
        with pytest.raises(ClientError, match="IncorrectInstanceState"):
            call(InstanceIds=[instance])
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.state(instance) == "terminated"


def test_terminate_gives_the_guest_time_for_its_term_handler(cloud: Any, eventually: Check) -> None:
    script = BASH + "trap 'echo saw TERM; exit' TERM\necho $$ > pid\nwhile :; do sleep 60 & wait; done\n"
    instance = cloud.boot(script)
    reported_pid(cloud, instance, "pid", eventually)
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.ends_as(instance, "terminated")
    assert "saw TERM" in cloud.console(instance)


DAEMON = (
    "(trap '' HUP TERM; exec setsid nohup bash -c 'echo $BASHPID > daemon; exec sleep 600' "
    ">/dev/null 2>&1 </dev/null &)\n"
)


def test_a_daemon_that_left_its_session_dies_with_the_instance(
    cloud: Any, eventually: Check, is_alive: Check
) -> None:
    instance = cloud.boot(BASH + DAEMON + "until [[ -e go ]]; do sleep 0.02; done\nshutdown -h now\n")
    daemon = reported_pid(cloud, instance, "daemon", eventually)
    assert is_alive(daemon)
    (cloud.disk(instance) / "go").touch()
    assert cloud.ends_as(instance, "terminated")
    assert not is_alive(daemon)


def test_a_scheduled_power_off_fires_though_the_script_hangs(cloud: Any, eventually: Check) -> None:
    hang = "trap '' TERM\nwhile :; do sleep 5; done\n"
    instance = cloud.boot(BASH + "echo poweroff 1 > run/power; echo $$ > pid\n" + hang)
    reported_pid(cloud, instance, "pid", eventually)
    assert cloud.state(instance) == "running"
    assert cloud.ends_as(instance, "terminated", 5)


def test_a_guests_clock_is_its_own_and_a_scheduled_power_off_follows_it(
    cloud: Any, eventually: Check
) -> None:
    script = BASH + (
        "date -s '2031-05-06 07:08:09 UTC'; date -u +%FT%H:%M > now; TZ=UTC date -d 2020-01-01 +%s > then\n"
        "echo poweroff 3600 > run/power; until [[ -e go ]]; do sleep 0.02; done\n"
        "date -s '2031-05-06 09:00:00 UTC'; echo jumped; sleep 60\n"
    )
    instance = cloud.boot(script)
    disk = cloud.disk(instance)
    assert eventually(lambda: (disk / "then").exists() and (disk / "then").read_text())
    assert (disk / "now").read_text() == "2031-05-06T07:08\n"
    assert (disk / "then").read_text() == "1577836800\n"
    assert cloud.state(instance) == "running"
    assert time.time() < 1900000000, "this machine's clock was set"
    (disk / "go").touch()
    assert cloud.ends_as(instance, "terminated", 5)
    assert "jumped" in cloud.console(instance)


def test_reboot_by_the_api_runs_the_per_boot_scripts_and_keeps_the_disk(
    cloud: Any, eventually: Check
) -> None:
    per_boot = "var/lib/cloud/scripts/per-boot"
    script = BASH + (
        f"printf '#!/bin/sh\\necho first $(cat kept)\\n' > {per_boot}/00-a; echo echo > {per_boot}/50-text\n"
        f"printf '#!/bin/sh\\necho second\\n' > {per_boot}/99-b; chmod +x {per_boot}/[09]*\n"
        "echo data > kept; echo user data ran; sleep 60\n"
    )
    instance = cloud.boot(script)
    assert eventually(lambda: "user data ran" in cloud.console(instance))
    cloud.ec2.reboot_instances(InstanceIds=[instance])
    assert eventually(lambda: "first data\nsecond\n" in cloud.console(instance)), cloud.console(instance)
    assert cloud.console(instance).count("user data ran") == 1
    assert cloud.state(instance) == "running"
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.ends_as(instance, "terminated")


def test_shutdown_schedules_in_minutes_and_cancels(cloud: Any, eventually: Check) -> None:
    script = BASH + "shutdown -P +1; shutdown -c; echo poweroff 0 > /dev/null; shutdown -P +0; sleep 60\n"
    instance = cloud.boot(script)
    assert cloud.ends_as(instance, "terminated")
    assert "Shutdown scheduled in 60 seconds" in cloud.console(instance)
    cancelled = cloud.boot(BASH + "echo poweroff 1 > run/power; shutdown -c; echo $$ > pid\n")
    reported_pid(cloud, cancelled, "pid", eventually)
    time.sleep(1.3)
    assert cloud.state(cancelled) == "running"


def test_an_instance_whose_script_merely_ends_keeps_running(
    cloud: Any, eventually: Check, is_alive: Check
) -> None:
    instance = cloud.boot(BASH + "echo $$ > pid; exit 3\n")
    pid = reported_pid(cloud, instance, "pid", eventually)
    assert eventually(lambda: not is_alive(pid))
    time.sleep(0.5)
    assert cloud.state(instance) == "running"


def test_user_data_that_is_no_script_is_left_alone(cloud: Any, eventually: Check) -> None:
    instance = cloud.boot("just text")
    assert eventually(lambda: "nothing to run" in cloud.console(instance))
    assert (cloud.disk(instance) / "var/lib/cloud/instance/user-data.txt").read_text() == "just text"


def test_the_guest_sees_its_own_environment_only(cloud: Any, eventually: Check) -> None:
    instance = cloud.boot(BASH + "env -0 > env; pwd > where; umask > mask\n")
    disk = cloud.disk(instance)
    assert eventually(lambda: (disk / "mask").exists() and (disk / "mask").read_text())
    pairs = dict(line.split("=", 1) for line in (disk / "env").read_text().split("\0") if line)
    made_by_bash = {"PWD", "SHLVL", "_", "OLDPWD"}
    metadata = pairs.pop("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    assert metadata.startswith("http://127.0.0.1:")
    assert {name: value for name, value in pairs.items() if name not in made_by_bash} == {
        "PATH": str(cloud.home / "image/bin"),
        "HOME": f"{disk}/root",
        "TMPDIR": f"{disk}/tmp",
        "LANG": "C.UTF-8",
        "CHRONOS_ROOT": str(disk),
        "AWS_ENDPOINT_URL": cloud.endpoint.endpoint_url,
    }
    assert (disk / "where").read_text().strip() == str(disk)


def test_the_guest_finds_only_the_instances_own_shutdown_and_cannot_gain_privileges(
    cloud: Any, eventually: Check
) -> None:
    script = BASH + (
        "for p in shutdown poweroff halt reboot; do type -a -p $p; done > found\n"
        "type systemctl sudo init telinit > /dev/null 2>&1 && echo more >> found\n"
        "for p in /sbin/{shutdown,poweroff} /usr/bin/systemctl; do [[ -x $p ]] && echo $p; done > seen\n"
        "grep -E 'NoNewPrivs|CapBnd' /proc/self/status > status; touch done\n"
    )
    instance = cloud.boot(script)
    disk = cloud.disk(instance)
    assert eventually(lambda: (disk / "done").exists())
    names = ("shutdown", "poweroff", "halt", "reboot")
    assert (disk / "found").read_text().splitlines() == [
        str(cloud.home / "image/bin" / name) for name in names
    ]
    status = dict(line.split(":") for line in (disk / "status").read_text().splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    if subprocess.run(["unshare", "-m" if os.geteuid() == 0 else "-Um", "true"], check=False).returncode == 0:
        assert (disk / "seen").read_text() == "", "this machine's own power programs"
    if os.geteuid() == 0:
        assert not int(status["CapBnd"], 16) & (1 << 22 | 1 << 25), "CAP_SYS_BOOT, CAP_SYS_TIME"


def test_python_and_the_aws_cli_are_the_images_own(cloud: Any, eventually: Check) -> None:
    script = BASH + (
        "python3 -c 'import sys; print(sys.prefix == sys.base_prefix)' > python\n"
        "aws --version > aws 2>&1; touch done\n"
    )
    instance = cloud.boot(script)
    assert eventually(lambda: (cloud.disk(instance) / "done").exists())
    assert (cloud.disk(instance) / "python").read_text() == "True\n"
    assert (cloud.disk(instance) / "aws").read_text().startswith("aws-cli/")


def test_launch_options_are_kept(cloud: Any) -> None:
    tags = [{"Key": "RunId", "Value": "2026-11-23-101500"}]
    volume = {"VolumeSize": 200, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    instance = cloud.boot(
        "",
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ],
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": volume}],
    )
    seen = cloud.instance(instance)
    assert seen["Tags"] == tags
    assert seen["MetadataOptions"]["HttpTokens"] == "required"
    volumes = [{"Name": "attachment.instance-id", "Values": [instance]}]
    (disk,) = cloud.ec2.describe_volumes(Filters=volumes)["Volumes"]
    assert (disk["Size"], disk["VolumeType"], disk["Encrypted"], disk["Tags"]) == (200, "gp3", True, tags)
    cloud.ec2.terminate_instances(InstanceIds=[instance])
    assert cloud.ends_as(instance, "terminated")
    assert cloud.ec2.describe_volumes(Filters=volumes)["Volumes"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
def test_an_ordinary_user_can_wipe_a_read_only_disk() -> None:
    code = (
        "import runpy, sys\nfrom pathlib import Path\n"
        f"wipe_disk = runpy.run_path({disk.__file__!r})['wipe_disk']\n"
        "import os, tempfile; os.setgid(65534); os.setuid(65534)\n"
        "top = Path(tempfile.mkdtemp()); kept = Path(tempfile.mkdtemp()); (kept / 'file').touch()\n"
        "(top / 'a/b').mkdir(parents=True); (top / 'a/b/c').touch(); (top / 'link').symlink_to(kept)\n"
        "(top / 'a/b').chmod(0o500); (top / 'a').chmod(0); top.chmod(0o500)\n"
        "wipe_disk(top); print(top.exists(), (kept / 'file').exists())\n"
        "(kept / 'file').unlink(); kept.rmdir()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "False True\n", run.stderr


def test_a_read_only_tree_does_not_survive_the_instance(cloud: Any) -> None:
    instance = cloud.boot(BASH + "mkdir -p a/b; touch a/b/c; chmod 500 a/b a; ln -s / a2; poweroff\n")
    assert cloud.ends_as(instance, "terminated")
    assert not cloud.disk(instance).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_guests_die_with_the_server(
    own_home: Path, number: signal.Signals, eventually: Check, is_alive: Check
) -> None:
    from .conftest import Cloud

    cloud = Cloud(own_home, control.start(own_home, 0))
    instance = cloud.boot(BASH + DAEMON + "trap '' TERM\necho $$ > pid\nwhile :; do sleep 5; done\n")
    pids = [reported_pid(cloud, instance, name, eventually) for name in ("pid", "daemon")]
    os.kill(cloud.endpoint.pid, number)
    until(lambda: not any(is_alive(pid) for pid in pids), "the guest outlives its server")
    until(lambda: not is_alive(cloud.endpoint.pid), "the server outlives its signal")
    if number == signal.SIGTERM:
        assert not cloud.disk(instance).exists()
        assert not (own_home / "endpoint.json").exists()
    else:
        assert json.loads((own_home / "endpoint.json").read_text())["pid"] == cloud.endpoint.pid
        assert control.read_endpoint(own_home) is None
        control.start(own_home, 0)
        assert not cloud.disk(instance).exists(), "the next server clears what a killed one left"
