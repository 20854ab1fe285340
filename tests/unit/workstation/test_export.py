"""Runs given to a real MLflow tracking server on this machine: its own app, over SQLite."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chronos_ec2.errors import ChronosError, NoSuchRun, UsageProblem
from chronos_ec2.workstation.export import export_run
from chronos_ec2.workstation.mlflow_server import MlflowRefused, MlflowServer

RUN = "2025-01-15-143022"
CONFIG = {"seed": 7, "training_config": {"learning_rate": 0.0001, "max_steps": 300}, "command": []}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server, without its job runner and its telemetry."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/store.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "artifacts"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HOME": str(folder),
    }
    argv = [sys.executable, "-m", "flask", "--app", "mlflow.server:app", "run", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            argv, env={**os.environ, **variables}, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + 600  # it loads for 10 s, and for minutes where others need the processors
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=30).close()
    except OSError:
        return False
    return True


def event(step: int, loss: float | None, second: int) -> str:
    row = {"event": "metric", "step": step, "loss": loss, "lr": 0.1, "t": f"2025-01-15T14:40:{second:02d}Z"}
    return json.dumps(row) + "\n"


def fill(world: Any, **changes: Any) -> None:
    """What a run leaves: more samples than one call of the API takes."""
    world.put(
        f"dev/{RUN}/training.json", {"metrics": {"WQL": 0.17}, "baselines": {"seasonal_naive": {"WQL": 0.26}}}
    )
    samples = [
        {
            "t": f"2025-01-15T{15 + i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}Z",
            "source": "sampler",
            "cpu_percent": i,
            "memory_bytes": 5,
        }
        for i in range(2500)
    ]
    lines = event(10, 2.0, 1) + event(20, None, 2) + "".join(json.dumps(row) + "\n" for row in samples)
    world.put(f"dev/{RUN}/metrics.jsonl", lines)
    facts: dict[str, Any] = {"config": CONFIG, "cost_usd": {"total": 1.25}, "git": {"commit": "abc123"}}
    world.end_run(**{"outcome": "succeeded", **facts, **changes})


def export(world: Any, uri: str, experiment: str, **more: Any) -> str:
    options = {"server": MlflowServer(uri, {}), "experiment": experiment, "out": io.StringIO(), **more}
    return export_run(world.s3, world.bucket, "dev", **options)


def runs_of(uri: str, experiment: str) -> list[dict[str, Any]]:
    """What the server says of an experiment's runs."""
    server = MlflowServer(uri, {})
    made = server.call("GET", "experiments/get-by-name", experiment_name=experiment)["experiment"]
    return list(server.call("POST", "runs/search", experiment_ids=[made["experiment_id"]]).get("runs", []))


def pairs(entries: list[dict[str, str]]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in entries}


def history(uri: str, run: str, key: str) -> list[tuple[int, float]]:
    found = MlflowServer(uri, {}).call("GET", "metrics/get-history", run_id=run, metric_key=key)
    return [(int(point["step"]), point["value"]) for point in found.get("metrics", [])]


def test_a_run_arrives_with_all_that_is_known_of_it(world: Any, uri: str) -> None:
    fill(world)
    out = io.StringIO()
    ours = export(world, uri, "whole", out=out)
    (run,) = runs_of(uri, "whole")
    info, data = run["info"], run["data"]
    assert (info["run_id"], info["run_name"], info["status"]) == (ours, RUN, "FINISHED")
    assert (info["start_time"], info["end_time"]) == (1736951422000, 1736951422000)
    assert pairs(data["params"]) == {
        "seed": "7",
        "training_config.learning_rate": "0.0001",
        "training_config.max_steps": "300",
        "command": "[]",
    }
    tags = pairs(data["tags"])
    assert tags["chronos.run_id"] == RUN
    assert tags["chronos.environment"] == "dev"
    assert tags["chronos.artifacts"] == f"s3://{world.bucket}/dev/{RUN}/"
    assert (tags["chronos.outcome"], tags["mlflow.source.git.commit"]) == ("succeeded", "abc123")
    results = {key: value for key, value in pairs(data["metrics"]).items() if key.startswith("result/")}
    assert results == {"result/WQL": 0.17, "result/seasonal_naive_WQL": 0.26, "result/cost_usd": 1.25}
    assert history(uri, ours, "loss") == [(10, 2.0)]
    assert history(uri, ours, "lr") == [(10, 0.1), (20, 0.1)]
    sampled = history(uri, ours, "system/cpu_percent")
    assert sampled[:2] == [(0, 0.0), (3, 3.0)] and len(sampled) == 834
    assert out.getvalue().startswith(f"{uri}/#/experiments/") and ours in out.getvalue()


def test_a_second_export_changes_the_same_run_and_doubles_nothing(world: Any, uri: str) -> None:
    world.put_run(config=CONFIG)
    world.put(f"dev/{RUN}/metrics/00001.jsonl", event(10, 2.0, 1))
    ours = export(world, uri, "twice")
    (run,) = runs_of(uri, "twice")
    assert run["info"]["status"] == "RUNNING"
    fill(world)
    world.put(f"dev/{RUN}/metrics.jsonl", event(10, 2.0, 1) + event(20, 1.5, 2))
    assert export(world, uri, "twice") == ours
    assert export(world, uri, "twice") == ours
    (run,) = runs_of(uri, "twice")
    assert run["info"]["status"] == "FINISHED"
    assert history(uri, ours, "loss") == [(10, 2.0), (20, 1.5)]
    assert history(uri, ours, "result/WQL") == [(0, 0.17)]


def test_runs_of_one_id_in_two_environments_are_two(world: Any, uri: str) -> None:
    fill(world)
    export(world, uri, "shared")
    body = {**world.run_document(), "environment": "prod"}
    world.put(f"prod/{RUN}/run.json", body)
    server = MlflowServer(uri, {})
    export_run(world.s3, world.bucket, "prod", server=server, experiment="shared", out=io.StringIO())
    assert len(runs_of(uri, "shared")) == 2


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("failed", "FAILED"), ("killed", "KILLED"), ("interrupted", "FAILED"), ("lost", "FAILED")],
)
def test_an_end_is_told_in_the_words_of_mlflow(world: Any, uri: str, outcome: str, status: str) -> None:
    world.end_run(outcome, error="é" * 9000, failed_step="training", metrics={"odd name@1": 3, "none": None})
    export(world, uri, f"ends-{outcome}")
    (run,) = runs_of(uri, f"ends-{outcome}")
    assert run["info"]["status"] == status
    assert pairs(run["data"]["tags"])["chronos.outcome"] == outcome
    assert pairs(run["data"]["metrics"]) == {"result/odd name_1": 3}


def test_a_long_configuration_goes_in_several_calls(world: Any, uri: str) -> None:
    fill(world, config={f"key{number}": "x" * 7000 for number in range(230)})
    export(world, uri, "long")
    (run,) = runs_of(uri, "long")
    params = pairs(run["data"]["params"])
    assert len(params) == 230 and len(params["key229"]) >= 500


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///tmp/x", "databricks", "http://", "http://[bad", "http://127.0.0.1:abc"]
)
def test_what_is_no_server_is_refused(uri: str) -> None:
    with pytest.raises(UsageProblem, match="tracking server"):
        MlflowServer(uri)


def test_a_server_that_is_not_there_is_named(world: Any) -> None:
    world.end_run("failed")
    with pytest.raises(ChronosError, match=r"http://127\.0\.0\.1:9 does not answer"):
        export(world, "http://127.0.0.1:9", "x")


def test_a_server_that_does_not_speak_http_is_named(world: Any) -> None:
    world.end_run("failed")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as caller:
                caller.sendall(b"SSH-2.0-x\r\n")

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(ChronosError, match="is it the tracking server"):
            export(world, f"http://127.0.0.1:{server.getsockname()[1]}", "x")


def test_a_record_that_lacks_its_id_and_odd_figures_are_exported(world: Any, uri: str) -> None:
    world.end_run("succeeded")
    body = world.run_document()
    del body["run_id"]
    world.put(f"dev/{RUN}/run.json", body)
    world.put(f"dev/{RUN}/training.json", b"junk")
    world.put(
        f"dev/{RUN}/metrics.jsonl", '{"event": "metric", "step": 1e30, "loss": 1}\n' + event(10, 2.0, 1)
    )
    ours = export(world, uri, "odd", run_id=RUN)
    assert history(uri, ours, "loss") == [(10, 2.0)]


def test_a_run_without_a_record_is_named(world: Any, uri: str) -> None:
    world.put(f"dev/{RUN}/logs/bootstrap.log", b"x")
    with pytest.raises(NoSuchRun, match=r"no run\.json"):
        export(world, uri, "none", run_id=RUN)


def test_what_the_server_refuses_is_said_in_its_own_words(world: Any, uri: str) -> None:
    world.end_run("failed")
    with pytest.raises(MlflowRefused, match="answered 400"):
        export(world, uri, "")


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "Basic dTpw"),
    ],
)
def test_credentials_come_from_mlflows_own_variables(
    variables: dict[str, str], sent: str | None, tmp_path: Path
) -> None:
    import http.server
    import threading

    seen: list[str | None] = []

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_error(401)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(MlflowRefused, match="MLFLOW_TRACKING_TOKEN"):
            MlflowServer(f"http://127.0.0.1:{server.server_port}", variables).call("GET", "x")
        server.shutdown()
    assert seen == [sent]
