"""What a launch leaves in the bucket, made by hand."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from chronos_ec2.state.clock import to_text, utc_now


def state_body(
    bucket: str, environment: str, run_id: str, status: str, instance_id: str | None, heard: datetime
) -> dict[str, Any]:
    """A valid state, begun and last written at `heard`, with half an hour to its deadline."""
    return {
        "run_id": run_id,
        "environment": environment,
        "status": status,
        "current_step": "launch" if status == "initialization" else status,
        "instance_id": instance_id,
        "instance_type": "t3.medium",
        "s3_prefix": f"s3://{bucket}/{environment}/{run_id}/",
        "timestamps": {"start": to_text(heard), "last_update": to_text(heard)},
        "training_config": {"prediction_length": 64, "context_length": 512},
        "error_message": None,
        "pid": None,
        "control": {
            "revision": 1,
            "writer": secrets.token_hex(8),
            "deadline": to_text(utc_now() + timedelta(minutes=30)),
            "attempt": 1,
        },
    }


def record_body(environment: str, run_id: str, instance_id: str | None, started: datetime) -> dict[str, Any]:
    """A run.json that has no end yet."""
    return {
        "schema_version": 1,
        "run_id": run_id,
        "environment": environment,
        "started_at": to_text(started),
        "ended_at": None,
        "outcome": None,
        "failed_step": None,
        "error": None,
        "exit_code": None,
        "phases": [],
        "instance": {"id": instance_id},
        "metrics": None,
    }
