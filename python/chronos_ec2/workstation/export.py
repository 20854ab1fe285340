"""Give a run to an MLflow tracking server: configuration, curves, outcome, where its files lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from chronos_ec2.report.points import Point, machine_points, training_points
from chronos_ec2.report.run_files import flat, mapping, moment, number
from chronos_ec2.workstation.mlflow_server import MlflowRefused, MlflowServer
from chronos_ec2.workstation.run_ids import latest_run_id, list_run_ids, no_such_run, run_prefix
from chronos_ec2.workstation.run_metrics import read_metrics, read_training
from chronos_ec2.workstation.s3 import get_json

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

METRICS_A_CALL, PAIRS_A_CALL = 1000, 100
"""What the API takes at once. Values that are too long it cuts itself."""
MOST_SAMPLES: Final = 1000
"""So many points of a machine's curve at most: six hours of samples are 4300."""
OWN_ID: Final = "chronos.run_id"
_ENDED: Final = {"succeeded": "FINISHED", "killed": "KILLED"}
Body = dict[str, Any]


def export_run(
    s3: S3Client,
    bucket: str,
    environment: str,
    *,
    server: MlflowServer,
    experiment: str,
    out: TextIO,
    run_id: str | None = None,
) -> str:
    """Make an MLflow run of a run, or bring the one up to date that an earlier call has made.

    Args:
        experiment: its name; made when there is none.
        out: where the page of the MLflow run is printed.
        run_id: which run; None means the active one, else the newest.

    Returns:
        MLflow's id of the run.

    Raises:
        NoSuchRun: there is no record of that run; names the runs there are.
        StorageDenied: S3 refused.
        ChronosError: the server refused, or did not answer.
    """
    run_id = run_id or latest_run_id(s3, bucket, environment)
    prefix = run_prefix(environment, run_id)
    record = get_json(s3, bucket, f"{prefix}run.json")
    if record is None:
        raise no_such_run(environment, run_id, list_run_ids(s3, bucket, environment))
    training = read_training(s3, bucket, prefix)
    log = read_metrics(s3, bucket, prefix)
    step = -(-len(log.samples) // MOST_SAMPLES) or 1
    columns = {**training_points(log.training), **machine_points(log.samples[::step])}
    tags = {
        OWN_ID: run_id,
        "chronos.environment": environment,
        **dict(_tags(record, f"s3://{bucket}/{prefix}")),
    }

    experiment_id = _experiment(server, experiment)
    ours = _find(server, experiment_id, tags) or _create(server, experiment_id, record, tags)
    metrics = [*_curves(columns, record), *_results(record, training)]
    for part in _batches(metrics, METRICS_A_CALL):
        server.call("POST", "runs/log-batch", run_id=ours, metrics=part)
    params = [{"key": _name(key), "value": text} for key, text in flat(record.get("config"))]
    for pairs in _batches(params, PAIRS_A_CALL):
        server.call("POST", "runs/log-batch", run_id=ours, params=pairs)
    server.call("POST", "runs/log-batch", run_id=ours, tags=_pairs(tags))
    # Last: a run that MLflow shows as finished has all it will have.
    end = moment(record.get("ended_at"))
    outcome = record.get("outcome")
    status = "RUNNING" if outcome is None else _ENDED.get(str(outcome), "FAILED")
    server.call("POST", "runs/update", run_id=ours, status=status, **({"end_time": _ms(end)} if end else {}))
    out.write(f"{server.uri}/#/experiments/{experiment_id}/runs/{ours}\n")
    return ours


def _tags(record: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """What tells our run from others, and what MLflow shows beside it; `mlflow.` names are MLflow's own."""
    yield "chronos.artifacts", where
    yield "mlflow.note.content", f"Model, forecasts, report and logs: {where}"
    for name in ("outcome", "failed_step", "error"):
        if record.get(name) is not None:
            yield f"chronos.{name}", str(record[name])
    git, machine = mapping(record.get("git")), mapping(record.get("instance"))
    if git.get("commit"):
        yield "mlflow.source.git.commit", str(git["commit"])
    for name in ("type", "market"):
        if machine.get(name):
            yield f"chronos.instance_{name}", str(machine[name])


def _pairs(tags: Mapping[str, str]) -> list[Body]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _experiment(server: MlflowServer, name: str) -> str:
    try:
        found = server.call("GET", "experiments/get-by-name", experiment_name=name)
    except MlflowRefused as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return str(server.call("POST", "experiments/create", name=name)["experiment_id"])
    return str(found["experiment"]["experiment_id"])


def _find(server: MlflowServer, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    """The run that an earlier export has made; its artifacts' place holds bucket, environment and id."""
    wanted = f"tags.`chronos.artifacts` = '{tags['chronos.artifacts']}'"
    found = server.call("POST", "runs/search", experiment_ids=[experiment_id], filter=wanted, max_results=1)
    return next((str(run["info"]["run_id"]) for run in found.get("runs", [])), None)


def _create(
    server: MlflowServer, experiment_id: str, record: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    made = server.call(
        "POST",
        "runs/create",
        experiment_id=experiment_id,
        run_name=tags[OWN_ID],
        start_time=_ms(moment(record.get("started_at"))),
        tags=_pairs(tags),
    )
    return str(made["run"]["info"]["run_id"])


def _curves(columns: Mapping[str, Sequence[Point]], record: Mapping[str, Any]) -> Iterator[Body]:
    start = moment(record.get("started_at"))
    for name, points in columns.items():
        for point in points:
            if point.value is not None:
                # The same moment at each export: MLflow keeps a figure once for a step and a moment.
                yield _metric(name, point.value, int(point.step), point.at or start)


def _results(record: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[Body]:
    """What a run comes to: its errors on the held-out window, the baselines', its cost."""
    end = moment(record.get("ended_at"))
    if end is None:
        return
    found = {
        **mapping(training.get("metrics") or record.get("metrics")),
        **{
            f"{baseline}_{name}": value
            for baseline, values in mapping(training.get("baselines")).items()
            for name, value in mapping(values).items()
        },
        "cost_usd": mapping(record.get("cost_usd")).get("total"),
    }
    for name, value in found.items():
        if (figure := number(value)) is not None:
            yield _metric(f"result/{name}", figure, 0, end)


def _metric(name: str, value: float, step: int, at: datetime | None) -> Body:
    return {"key": _name(name), "value": value, "step": step, "timestamp": _ms(at)}


def _batches(bodies: Sequence[Body], most: int) -> Iterator[Sequence[Body]]:
    return (bodies[first : first + most] for first in range(0, len(bodies), most))


def _name(name: str) -> str:
    """A key that MLflow takes: letters, digits, _ - . / and spaces, 250 at most."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)[:250]


def _ms(at: datetime | None) -> int:
    return round(at.timestamp() * 1000) if at else 0
