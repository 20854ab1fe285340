"""Whether a run can go on from another one's checkpoint: `launch --resume RUN_ID`.

usage: python -m chronos_ec2.workstation.resume --env E [--set K=V]... --bucket B --run-id R
           --dataset-sha256 S --environment-sha256 S

Prints {"run_id", "step"} on stdout. The instance fetches the newest checkpoint that verifies, so the step
that it finds can be an older one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from chronos_ec2.errors import ChronosError, NoSuchRun, SettingsError, UsageProblem
from chronos_ec2.report.run_files import mapping
from chronos_ec2.state.stored_checkpoints import list_stored, read_manifest
from chronos_ec2.training_settings import WHEN_TO_TELL, read_training_config
from chronos_ec2.workstation.launch_files import run_config
from chronos_ec2.workstation.run_ids import list_run_ids, no_such_run, run_prefix
from chronos_ec2.workstation.s3 import get_json, translated
from chronos_ec2.workstation.setting_values import parse_assignments
from chronos_ec2.workstation.settings import KEYS, TRAINER_CONFIGS, Settings, load_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SETTINGS_OF_A_RUN: Final = ("trainer", "command", "accelerator")
"""What must be the same beside `training_config`, which has the seed.

How often to save, where and how long to run may change.
"""
_SETTING_OF: Final = {"save_steps": "checkpoint_every_steps"}


def check_resume(
    s3: S3Client, bucket: str, settings: Settings, run_id: str, *, dataset_sha256: str
) -> dict[str, Any]:
    """See that a launch with these settings can go on from a run.

    Args:
        run_id: the run to go on from, of the settings' environment.
        dataset_sha256: digest of the training data's manifest that the launch would use.

    Returns:
        `{"run_id", "step", "environment_sha256"}`: the newest checkpoint of which all is in S3, and the
        training environment that it was made in (None when the record does not say).

    Raises:
        NoSuchRun: there is no such run in this environment, or it has no whole checkpoint.
        UsageProblem: it has succeeded, so there is nothing to go on with.
        SettingsError: the data or settings are others; names each of them.
    """
    prefix = run_prefix(settings.environment, run_id)
    record = get_json(s3, bucket, f"{prefix}run.json")
    if record is None:
        raise no_such_run(settings.environment, run_id, list_run_ids(s3, bucket, settings.environment))
    if record.get("outcome") == "succeeded":
        raise UsageProblem(
            f"run {run_id} has succeeded, there is nothing to go on with: "
            f"invoke fetch --env {settings.environment} --run {run_id}"
        )
    _refuse_other_settings(record, settings, run_id, dataset_sha256)
    archive = record.get("environment_archive")
    return {
        "run_id": run_id,
        "step": _newest_whole_step(s3, bucket, prefix, run_id),
        "environment_sha256": archive.get("sha256") if isinstance(archive, dict) else None,
    }


def differing_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The training settings of two runs' configs that are not the same, each as (then, now)."""
    pairs = {key: (then.get(key), now.get(key)) for key in SETTINGS_OF_A_RUN}
    same = then.get("trainer") == now.get("trainer")
    before, after = _as_taken(then, now) if same else (_as_given(then), _as_given(now))
    for key in sorted({*before, *after} - WHEN_TO_TELL):
        pairs[key] = (before.get(key), after.get(key))
    left_open = any(value in (None, "auto") for value in pairs.get("precision", ()))
    if left_open and now.get("trainer") == "chronos":
        # What `auto` came to is known on the machine alone, where the trainer refuses another one.
        del pairs["precision"]
    return {key: pair for key, pair in pairs.items() if _plain(pair[0]) != _plain(pair[1])}


def _as_given(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(config.get("training_config"))


def _as_taken(*configs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The training settings that decide the result, as the trainer of these runs takes them."""
    trainer = TRAINER_CONFIGS.get(str(configs[0].get("trainer")))
    given = [_as_given(config) for config in configs]
    if trainer is None:
        return given
    try:
        taken = [read_training_config(trainer, config, "training_config") for config in given]
    except SettingsError:  # a run of another version, whose settings this one does not know
        return given
    # What is in the start model, which the trainer goes by, is not looked into here.
    return [{**config.result_keys(), "model_id": getattr(config, "model_id", None)} for config in taken]


def _setting(key: str) -> str:
    """What a key of a run's configuration is called where it is set."""
    return _SETTING_OF.get(key, key if key in KEYS else f"training.{key}")


def _plain(value: object) -> object:
    """A number that YAML has left a text, as it does with `1e-4`, is that number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _refuse_other_settings(
    record: Mapping[str, Any], settings: Settings, run_id: str, dataset_sha256: str
) -> None:
    other = differing_settings(mapping(record.get("config")), run_config(settings, run_id))
    problems = [f"{key} is {_shown(now)} and was {_shown(then)}" for key, (then, now) in other.items()]
    dataset = mapping(record.get("dataset"))
    if dataset.get("manifest_sha256") != dataset_sha256:
        problems.append(
            f"the training data are others (their manifest's sha256 begins {dataset_sha256[:8]} and began "
            f"{str(dataset.get('manifest_sha256'))[:8]}: upload those of then again)"
        )
    if not problems:
        return
    named = {_setting(key): then for key, (then, _) in other.items()}
    known = {key: then for key, then in named.items() if then is not None}
    flags = [f"--set {shlex.quote(f'{key}={_as_flag(then)}')}" for key, then in known.items()]
    unset = [key for key in named if key not in known]
    advice = f"; for the same settings add {' '.join(flags)}" if flags else ""
    advice += f"; leave {', '.join(unset)} out" if unset else ""
    raise SettingsError(f"run {run_id} cannot go on as another one: {', '.join(problems)}{advice}")


def _newest_whole_step(s3: S3Client, bucket: str, prefix: str, run_id: str) -> int:
    problems = []
    with translated(f"s3://{bucket}/{prefix}"):
        for stored in list_stored(s3, bucket, prefix):
            try:
                return read_manifest(s3, bucket, stored).step
            except ValueError as error:
                problems.append(f"checkpoint-{stored.step}: {error}")
    why = f" ({'; '.join(problems)})" if problems else ""
    raise NoSuchRun(f"run {run_id} has no whole checkpoint to go on from{why}: launch without --resume")


def _shown(value: object) -> str:
    return "not set" if value is None else json.dumps(value)


def _as_flag(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _client() -> S3Client:
    """Region, profile and endpoint come from the AWS variables that launch_training.sh has set."""
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 5}
    return boto3.client("s3", config=Config(connect_timeout=5, read_timeout=30, retries=retries))


def main(argv: list[str] | None = None) -> int:
    """Check what the arguments describe; print the answer as JSON."""
    parser = argparse.ArgumentParser(
        prog="resume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--dataset-sha256", required=True)
    parser.add_argument("--environment-sha256", required=True)
    given = parser.parse_args(argv)
    try:
        settings = load_settings(given.env, parse_assignments(given.assignments), variables=os.environ)
        found = check_resume(
            _client(), given.bucket, settings, given.run_id, dataset_sha256=given.dataset_sha256
        )
    except ChronosError as error:
        print(f"launch --resume: {error}", file=sys.stderr)
        return int(error.exit_code)
    if found["environment_sha256"] != given.environment_sha256:
        print(
            "launch --resume: the training environment is another one than then; the result may differ from "
            "that of a run in one piece",
            file=sys.stderr,
        )
    print(json.dumps({"run_id": found["run_id"], "step": found["step"]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
