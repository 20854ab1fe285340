"""Whole runs, from the launch to power-off, by the same scripts that run against real AWS."""

from __future__ import annotations

import base64
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.report.run_files import read_run
from outside_looks import until

from .canaries import Canaries
from .conftest import Cloud


def command(*argv: str) -> list[str]:
    """Flags that replace the trainer by a command of one's own."""
    return ["--set", "trainer=command", "--set", f"command={json.dumps(argv)}"]


def rehearsal(*flags: str) -> list[str]:
    """Flags that run the test trainer with some of its rehearsal flags."""
    module = ["python3", "-m", "chronos_ec2.instance.trainers.linear_quantile"]
    return command(*module, "--config", "{config}", "--data", "{data}", "--output", "{output}", *flags)


@pytest.fixture(autouse=True)
def nothing_is_left(cloud: Cloud) -> Iterator[None]:
    """After any run, good or bad, nothing is left."""
    yield
    cloud.assert_nothing_left()


def wait_for_step(cloud: Cloud, prefix: str, seconds: float = 300) -> None:
    """Wait until the run's `current_step` begins with something, and `watch` shows it."""
    until(lambda: cloud.step().startswith(prefix), f"no step {prefix}", seconds, every=0.2)
    shown = json.loads(cloud.invoke("watch", "--env", "local", "--once", "--json").stdout)
    assert str(shown["current_step"]).startswith(prefix)


@pytest.fixture(scope="module")
def canaries(cloud: Cloud) -> Canaries:
    """The secrets that lie on the laptop while `whole_run` is launched and followed."""
    return Canaries(cloud)


@pytest.fixture(scope="module")
def whole_run(cloud: Cloud, canaries: Canaries) -> dict[str, Any]:
    """A run that nothing interrupted, on the default settings; what its launch printed."""
    with canaries.planted():
        launched = cloud.launch()
        watched = cloud.follow(launched["run_id"])
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert not canaries.found_in((watched.stdout + watched.stderr + json.dumps(launched)).encode())
    return launched


def test_a_run_trains_and_leaves_only_its_results(
    cloud: Cloud, whole_run: dict[str, Any], tmp_path: Path
) -> None:
    launched = whole_run
    record = cloud.record(launched["run_id"])
    assert record["outcome"] == "succeeded"
    assert (record["price"]["compute_usd_per_hour"], record["price"]["source"]) == (0.0416, "AWS Price List")
    assert record["cost_usd"]["total"] > 0
    assert record["requests"]["put"] > 20  # counted on the instance
    assert record["instance"]["id"] == launched["instance_id"]
    assert [phase["name"] for phase in record["phases"]] == [
        *("initialization", "system_setup", "venv_download", "gpu_preflight"),
        *("data_sync", "training", "results_sync", "cleanup"),
    ]
    naive = record["metrics"]["baselines"]["seasonal_naive"]
    assert record["metrics"]["WQL"] < naive["WQL"]
    assert record["metrics"]["MASE"] < naive["MASE"]
    wanted = {"config.yaml", "models/model.pkl", "training.json", "logs/bootstrap.log", "run.json"}
    wanted |= {"metrics.jsonl", "report.html"}
    assert wanted <= cloud.keys(f"local/{launched['run_id']}/")
    assert cloud.keys(f"logs/{launched['run_id']}/") == {"phase_logs.json"}
    fetched = cloud.invoke("fetch", "--env", "local", "--run", launched["run_id"], "--into", str(tmp_path))
    assert fetched.returncode == 0, fetched.stderr
    log = (tmp_path / launched["run_id"] / "logs" / "bootstrap.log").read_text()
    assert log.rstrip().endswith(f"end of the log of run {launched['run_id']}")
    assert log.startswith("cloud-init| ") and '\ntrainer| {"event": "start"' in log
    left = read_run(tmp_path / launched["run_id"])
    assert {sample["phase"] for sample in left.metrics.samples} >= {"training"}
    assert all(0 < sample["memory_bytes"] < sample["memory_total_bytes"] for sample in left.metrics.samples)
    assert left.metrics.training and not (tmp_path / launched["run_id"] / "metrics").exists()
    assert (tmp_path / launched["run_id"] / "tensorboard").is_dir()


def test_a_run_says_where_its_billed_seconds_went(cloud: Cloud, whole_run: dict[str, Any]) -> None:
    run_id = whole_run["run_id"]
    timeline = cloud.record(run_id)["timeline"]
    assert sorted(timeline, key=lambda name: str(timeline[name])) == [
        *(
            "launch_accepted",
            "instance_running",
            "user_data_started",
            "environment_ready",
            "preflight_passed",
        ),
        *("data_ready", "first_step", "last_step", "results_safe", "power_off"),
    ]
    phase_logs = json.loads(
        cloud.aws.s3.get_object(Bucket=cloud.aws.bucket, Key=f"logs/{run_id}/phase_logs.json")["Body"].read()
    )
    assert phase_logs["timeline"] == timeline
    shown = cloud.invoke("runs", "--env", "local")
    assert re.search(r"billed .+, trained .+ \(\d+ %\); largest waste: ", shown.stdout), shown.stdout


def test_no_secret_of_the_laptop_or_the_machine_comes_up_anywhere(
    whole_run: dict[str, Any], canaries: Canaries
) -> None:
    states = [json.loads(body) for key, body in canaries.written if key == "local/system-state.json"]
    revisions = sorted(state["control"]["revision"] for state in states)
    assert revisions == list(range(1, len(states) + 1)) and len(states) > 8
    assert {state["status"] for state in states} >= {"initialization", "training", "cleanup"}
    assert len(canaries.command_lines) > 50 and len(canaries.of_role) == 3
    meanwhile = [*canaries.written, *((str(line), line) for line in canaries.command_lines)]
    assert [at for at, what in meanwhile if canaries.found_in(what) or canaries.role_found_in(what)] == []
    places = dict(canaries.places(whole_run))
    run = f"local/{whole_run['run_id']}"
    wanted = {"user data", "console", f"{run}/run.json", f"{run}/logs/bootstrap.log", f"{run}/config.yaml"}
    assert wanted <= places.keys() and "CHRONOS_RUN_ID" in places["user data"].decode()
    assert [place for place, body in places.items() if canaries.found_in(body)] == []
    left = [
        place for place, body in places.items() if canaries.role_found_in(body) and not place.startswith("/")
    ]
    assert left == [], "a role's key"
    assert all(canaries.role_found_in(f"x{secret}y".encode()) for secret in canaries.of_role)
    planted = next(iter(canaries.variables.values()))
    assert canaries.found_in(f"x{planted}y".encode()), "a canary that is there is found"
    assert canaries.found_in(base64.b64encode(f"a longer text with {planted} in it".encode()))


@pytest.fixture
def inbox(cloud: Cloud) -> Iterator[Callable[[], dict[str, str]]]:
    """Listens to the stack's topic; returns what has come, message by subject."""
    sns, sqs = cloud.aws.client("sns"), cloud.aws.client("sqs")
    queue = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    listening = sns.subscribe(TopicArn=cloud.aws.topic_arn, Protocol="sqs", Endpoint=arn)["SubscriptionArn"]

    def read() -> dict[str, str]:
        came = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        bodies = [json.loads(message["Body"]) for message in came]
        assert len(bodies) == len({body["Subject"] for body in bodies}), "each event once"
        return {body["Subject"]: body["Message"] for body in bodies}

    yield read
    sns.unsubscribe(SubscriptionArn=listening)
    sqs.delete_queue(QueueUrl=queue)


HANG_ONCE = """
ls "$4"/checkpoint-* >/dev/null 2>&1 || hang="--hang-at-step $5"
exec python3 -m chronos_ec2.instance.trainers.linear_quantile --config "$1" --data "$2" --output "$3" $hang
"""
"""The test trainer; it hangs at a step unless it goes on from a checkpoint."""


@pytest.mark.usefixtures("quick_aws")
def test_an_interrupted_spot_run_goes_on_and_ends_with_the_model_of_a_run_in_one_piece(
    cloud: Cloud, whole_run: dict[str, Any]
) -> None:
    seed = time.time_ns()
    step = random.Random(seed).randrange(20, 290)
    print(f"interrupted before step {step} (seed {seed})")
    places = ("{config}", "{data}", "{output}", "{checkpoints}")
    asked = [*command("bash", "-c", HANG_ONCE, "trainer", *places, str(step))]
    asked += ["--set", "checkpoint_every_steps=100"]
    first = cloud.launch("--spot", *asked)
    wait_for_step(cloud, "step_")
    noticed = cloud.invoke("local.interrupt")
    assert noticed.returncode == 0 and first["instance_id"] in noticed.stdout, noticed.stderr
    watched = cloud.follow(first["run_id"])
    assert watched.returncode == ExitCode.RUN_INTERRUPTED, watched.stdout + watched.stderr
    record = cloud.record(first["run_id"])
    assert (record["outcome"], record["failed_step"]) == ("interrupted", "training")
    assert record["interrupted_at_step"] == record["checkpoint_step"] == step - 1
    way_on = f"invoke launch --env local --resume {first['run_id']}"
    assert record["error"].endswith(way_on) and f"next: {way_on}" in watched.stdout
    refused = cloud.invoke("launch", "--env", "local", "--resume", first["run_id"])
    assert refused.returncode == ExitCode.SETTINGS_INVALID, refused.stderr
    assert 'trainer is "test" and was "command"' in refused.stderr
    second = cloud.launch("--resume", first["run_id"], *asked)
    assert cloud.follow(second["run_id"]).returncode == 0
    record = cloud.record(second["run_id"])
    assert (record["resume_from"], record["resumed_from_step"]) == (first["run_id"], step - 1)
    model = "models/model.pkl"
    assert cloud.body(second["run_id"], model) == cloud.body(whole_run["run_id"], model)
    ids = [launched["run_id"] for launched in (whole_run, first, second)]
    compared = cloud.invoke("compare", *ids[:2], "--also", ids[2], "--env", "local", "--json")
    facts = {row["name"]: row["values"] for row in json.loads(compared.stdout)["facts"]}
    assert facts["outcome"] == ["succeeded", "interrupted", "succeeded"]
    assert facts["instance.market"] == ["on-demand", "spot", "on-demand"]
    assert facts["metrics.WQL"][0] == facts["metrics.WQL"][2]
    page = cloud.home / "interrupted.html"
    reported = cloud.invoke("report", "--env", "local", "--run", first["run_id"], "--into", str(page))
    assert reported.returncode == 0 and way_on in page.read_text(), reported.stderr


@pytest.fixture
def no_jq(cloud: Cloud) -> Iterator[None]:
    """An image without jq: the scripts bring their own."""
    (link,) = (cloud.home / "image").rglob("bin/jq")
    aside = link.rename(link.with_name("jq-aside"))
    yield
    aside.rename(link)


@pytest.mark.usefixtures("no_jq", "quick_aws")
def test_a_trainer_that_exits_3_fails_the_run_at_training_also_on_an_image_without_jq(
    cloud: Cloud, inbox: Callable[[], dict[str, str]]
) -> None:
    launched = cloud.launch(*command("bash", "-c", "echo out of luck >&2; exit 3"))
    watched = cloud.follow(launched["run_id"])
    assert watched.returncode == ExitCode.RUN_FAILED, watched.stdout + watched.stderr
    record = cloud.record(launched["run_id"])
    assert (record["outcome"], record["failed_step"], record["exit_code"]) == ("failed", "training", 3)
    assert "3" in record["error"]
    log = cloud.invoke("logs", "--env", "local", "--run", launched["run_id"])
    assert "out of luck" in log.stdout
    said = {subject.split(": ")[1].split(" (")[0]: text for subject, text in inbox().items()}
    assert set(said) == {"training has begun", "failed at training"}
    for line in (f"run         {launched['run_id']}", "step        training", "outcome     failed"):
        assert line in said["failed at training"].splitlines()


@pytest.mark.usefixtures("quick_aws")
def test_a_hanging_trainer_holds_the_environment_until_it_is_killed(cloud: Cloud) -> None:
    launched = cloud.launch(*rehearsal("--hang-at-step", "20"))
    second = cloud.invoke("launch", "--env", "local")
    assert second.returncode == ExitCode.HELD, second.stderr
    assert launched["run_id"] in second.stderr and launched["instance_id"] in second.stderr
    assert cloud.live_instances() == [launched["instance_id"]]
    wait_for_step(cloud, "step_")
    killed = cloud.invoke("kill", "--env", "local", "--yes")
    assert killed.returncode == 0, killed.stderr
    record = cloud.record(launched["run_id"])
    assert (record["outcome"], record["failed_step"]) == ("killed", "training")
    watched = cloud.follow(launched["run_id"])
    assert watched.returncode == ExitCode.RUN_KILLED, watched.stdout


@pytest.mark.usefixtures("quick_aws")
def test_a_corrupt_environment_archive_fails_at_venv_download(cloud: Cloud) -> None:
    aws = cloud.aws
    manifest_key = "cached-datasets/python-env/MANIFEST.json"
    manifest = json.loads(aws.s3.get_object(Bucket=aws.bucket, Key=manifest_key)["Body"].read())
    key = f"cached-datasets/python-env/{manifest['archive']}"
    with cloud.altered(key, lambda body: body[: len(body) // 2]):
        launched = cloud.launch()
        watched = cloud.follow(launched["run_id"])
    assert watched.returncode == ExitCode.RUN_FAILED
    record = cloud.record(launched["run_id"])
    assert (record["outcome"], record["failed_step"]) == ("failed", "venv_download")
    assert "corrupt" in record["error"] and "invoke build-env" in record["error"]


@pytest.mark.usefixtures("quick_aws")
def test_scripts_altered_after_the_launch_are_never_run(cloud: Cloud) -> None:
    key = "cached-datasets/scripts/lib/phases.sh"
    with cloud.altered(key, lambda body: b"touch /tmp/altered-script-ran\n" + body):
        launched = cloud.launch()
        watched = cloud.follow(launched["run_id"])
        freed = cloud.invoke("kill", "--env", "local", "--yes")
    assert watched.returncode == ExitCode.RUN_LOST, watched.stdout + watched.stderr
    assert freed.returncode == 0, freed.stderr
    assert cloud.record(launched["run_id"])["outcome"] == "lost"
    assert not Path("/tmp/altered-script-ran").exists()


@pytest.mark.usefixtures("quick_aws")
def test_a_claim_whose_machine_was_taken_back_without_a_notice_is_taken_over(cloud: Cloud) -> None:
    every = ["--set", "checkpoint_every_steps=100"]
    first = cloud.launch("--spot", *rehearsal("--hang-at-step", "20"), *every)
    assert cloud.invoke("local.interrupt", "--notice-seconds", "0").returncode == 0
    time.sleep(1.1)  # run ids count seconds
    second = cloud.launch(*command("bash", "-c", "exit 3"))
    record = cloud.record(first["run_id"])
    assert (record["outcome"], record["checkpoint_step"]) == ("interrupted", None)
    assert cloud.follow(second["run_id"]).returncode == ExitCode.RUN_FAILED
