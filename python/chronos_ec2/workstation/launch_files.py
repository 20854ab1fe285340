"""Make the files of one launch: user data, `config.yaml`, `run.json`, the first state, the pools' prices.

`launch_training.sh` gathers the facts from AWS, this module turns them and the settings into files,
the script sends them. Nothing here talks to AWS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml

from chronos_ec2.errors import ChronosError, NotUploaded
from chronos_ec2.state.clock import to_text, utc_now
from chronos_ec2.state.machine import SCHEMA_VERSION, validate_state
from chronos_ec2.workstation.launch_prices import limited, prices_of_pools, recorded_estimate
from chronos_ec2.workstation.outside_switch import switch_name
from chronos_ec2.workstation.pools import ladder, ladder_markets
from chronos_ec2.workstation.render import render_user_data
from chronos_ec2.workstation.setting_values import parse_assignments
from chronos_ec2.workstation.settings import REPOSITORY, Settings, load_settings
from chronos_ec2.workstation.spot_policy import expected_loss, require_cadence

_MANIFESTS: Final = {
    "environment_archive": ("archive", "sha256", "pieces_sha256"),
    "dataset": ("rows", "series", "files"),
}


def run_config(settings: Settings, run_id: str) -> dict[str, Any]:
    """The run's `config.yaml`: all that the instance's programs need to know."""
    return {
        "run_id": run_id,
        "environment": settings.environment,
        "trainer": settings.trainer,
        "command": list(settings.command),
        "nodes": settings.nodes,
        "processes": settings.processes,
        "accelerator": settings.accelerator,
        "min_free_disk_gb": settings.min_free_disk_gb,
        "heartbeat_seconds": settings.heartbeat_seconds,
        "checkpoint_every_steps": settings.checkpoint_every_steps,
        "seed": settings.seed,
        "training_config": settings.training_config(),
    }


def config_text(settings: Settings, run_id: str) -> str:
    """The run's `config.yaml` as it is sent; its digest goes with the user data."""
    return yaml.safe_dump(run_config(settings, run_id), sort_keys=False)


def user_data_values(settings: Settings, facts: Mapping[str, Any], deadline: datetime) -> dict[str, Any]:
    """What the user data template is filled with."""
    archive = facts["environment_archive"]
    return {
        "run_id": facts["run_id"],
        "environment": settings.environment,
        "bucket": facts["bucket"],
        "region": settings.region,
        "deadline": to_text(deadline),
        "deadline_minutes": math.ceil(settings.max_hours * 60),
        "nodes": settings.nodes,
        "accelerator": settings.accelerator,
        "min_free_disk_gb": settings.min_free_disk_gb,
        "heartbeat_seconds": settings.heartbeat_seconds,
        "log_upload_seconds": settings.log_upload_seconds,
        "kill_grace_seconds": settings.kill_grace_seconds,
        "keep_on_failure_minutes": settings.keep_on_failure_minutes,
        "environment_archive": archive["archive"],
        "environment_pieces_sha256": archive["pieces_sha256"],
        "scripts_sha256": facts["scripts_sha256"],
        "config_sha256": hashlib.sha256(config_text(settings, facts["run_id"]).encode()).hexdigest(),
        "dataset_sha256": facts["dataset_sha256"],
        "resume_from": (facts.get("resume") or {}).get("run_id", ""),
        "start_model": settings.start_model,
        "topic_arn": facts.get("topic_arn", ""),
        "stale_minutes": settings.stale_minutes,
        "sample_seconds": settings.sample_seconds,
        "idle_gpu_minutes": settings.idle_gpu_minutes,
        "idle_gpu_action": settings.idle_gpu_action,
    }


def first_state(
    settings: Settings, facts: Mapping[str, Any], now: datetime, deadline: datetime
) -> dict[str, Any]:
    """The state file's first body: status `initialization`, no instance yet."""
    run_id, environment = facts["run_id"], settings.environment
    config = run_config(settings, run_id)["training_config"]
    return validate_state(
        {
            "run_id": run_id,
            "environment": environment,
            "status": "initialization",
            "current_step": "launch",
            "instance_id": None,
            "instance_type": settings.instance_type,
            "s3_prefix": f"s3://{facts['bucket']}/{environment}/{run_id}/",
            "timestamps": {"start": to_text(now), "last_update": to_text(now)},
            "training_config": {key: config[key] for key in ("prediction_length", "context_length")},
            "error_message": None,
            "pid": None,
            "control": {
                "schema_version": SCHEMA_VERSION,
                "revision": 1,
                "writer": secrets.token_hex(8),
                "deadline": to_text(deadline),
                "attempt": 1,
                **({"nodes": settings.nodes} if settings.nodes > 1 else {}),
            },
        }
    )


def switches_of(settings: Settings, run_id: str, deadline: datetime) -> dict[str, str | None]:
    """The dead man's switches of a run: when the guest's acts, and the outside one's name."""
    outside = switch_name(settings.environment, run_id) if settings.outside_switch else None
    return {"guest": to_text(deadline), "outside": outside}


def run_record(
    settings: Settings, facts: Mapping[str, Any], now: datetime, deadline: datetime
) -> dict[str, Any]:
    """`run.json` as the launch writes it: the intent, with no end yet."""
    archive, dataset = facts["environment_archive"], facts["dataset"]
    return {
        "schema_version": 1,
        "run_id": facts["run_id"],
        "environment": settings.environment,
        "started_at": to_text(now),
        "requested_by": facts["requested_by"],
        "config": run_config(settings, facts["run_id"]),
        "git": git_facts(REPOSITORY),
        "ami": facts["ami"],
        # What the ladder tries first; the launch puts in what it got, and the attempts before that.
        "instance": {"id": None, "type": settings.instance_type, "market": ladder_markets(settings)[0]},
        "pool": None,
        "attempts": [],
        "deadline": to_text(deadline),
        "switches": switches_of(settings, facts["run_id"], deadline),
        "price": next(iter(prices_of_pools(settings, facts)), None),
        "estimate": recorded_estimate(facts),
        "cost_usd": None,
        "scripts_sha256": facts["scripts_sha256"],
        "environment_archive": {
            "key": f"cached-datasets/python-env/{archive['archive']}",
            "sha256": archive["sha256"],
            "bytes": archive.get("bytes"),
        },
        "dataset": {
            "manifest_sha256": facts["dataset_sha256"],
            "rows": dataset["rows"],
            "series": dataset["series"],
            "files": dataset["files"],
        },
        "resume_from": (facts.get("resume") or {}).get("run_id"),
        "ended_at": None,
        "outcome": None,
        "failed_step": None,
        "error": None,
        "exit_code": None,
        "phases": [],
        "metrics": None,
    }


def git_facts(folder: Path) -> dict[str, Any]:
    """Which commit the scripts come from, and whether files differ from it; None where there is no git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def write_launch_files(settings: Settings, facts: Mapping[str, Any], into: Path, now: datetime) -> None:
    """Write `user_data.sh`, `config.yaml`, `run.json`, `state.json`, pools and prices into a folder.

    Raises:
        NotUploaded: a manifest that came from the bucket is not one.
        SettingsError: the spot market, for a trainer that does not say how often it saves.
    """
    require_cadence(settings)
    for name, keys in _MANIFESTS.items():
        if not isinstance(facts[name], dict) or not facts[name].keys() >= set(keys):
            first = "invoke build-env, then " if name == "environment_archive" else ""
            raise NotUploaded(
                f"the {name} manifest in the bucket lacks {', '.join(keys)}: run {first}invoke upload again"
            )
    settings = limited(settings, facts)
    deadline = now + timedelta(hours=settings.max_hours)
    (into / "user_data.sh").write_text(render_user_data(user_data_values(settings, facts, deadline)))
    (into / "config.yaml").write_text(config_text(settings, facts["run_id"]))
    (into / "run.json").write_text(json.dumps(run_record(settings, facts, now, deadline), indent=2))
    (into / "state.json").write_text(json.dumps(first_state(settings, facts, now, deadline)))
    (into / "pools.json").write_text(json.dumps(ladder(settings, facts["run_id"], facts["subnets"])))
    (into / "prices.json").write_text(json.dumps(prices_of_pools(settings, facts)))


def example_user_data(settings: Settings, now: datetime | None = None) -> str:
    """The user data of a launch, with stand-ins for what only AWS knows; no call is made."""
    now = now or utc_now()
    facts = {
        "run_id": f"{now:%Y-%m-%d-%H%M%S}",
        "bucket": "the-bucket-of-the-stack",
        "environment_archive": {"archive": "the-uploaded-environment.tar.gz", "pieces_sha256": "0" * 64},
        "scripts_sha256": "0" * 64,
        "dataset_sha256": "0" * 64,
    }
    return render_user_data(user_data_values(settings, facts, now + timedelta(hours=settings.max_hours)))


def main(argv: list[str] | None = None) -> int:
    """Read facts as JSON from standard input and write the files of a launch."""
    parser = argparse.ArgumentParser(prog="launch_files", description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    parser.add_argument("--into", type=Path, required=True, help="folder for the files")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(
            arguments.env, parse_assignments(arguments.assignments), variables=os.environ
        )
        write_launch_files(settings, json.load(sys.stdin), arguments.into, utc_now())
        if warning := expected_loss(settings):
            print(f"launch: {warning}", file=sys.stderr)
    except ChronosError as error:
        print(f"launch: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
