"""What a person can do about a run that did not succeed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from chronos_ec2.report.run_files import entries
from chronos_ec2.report.way_on import next_launch, reached_deadline

_BY_STEP: Final = {
    "launch": "EC2 gave no machine: the error names the quota, the permission or the wrong value; "
    "for want of capacity try invoke launch --wait-for-capacity 2h, or more types and zones",
    "venv_download": "the training environment is damaged or does not run on the image: "
    "invoke build-env, then invoke upload",
    "gpu_preflight": "the machine was not fit for the training; each failed check below has its remedy",
    "data_sync": "the data in the bucket is not what the launch saw: "
    "invoke upload --data FOLDER, then launch again",
    "training": "the trainer failed: logs/training.log has its last words, training.json its last numbers",
    "results_sync": "something could not be uploaded: the log names each file; the rest is in the bucket",
}
_BY_OUTCOME: Final = {
    "killed": "somebody killed the run; what it had made by then was saved",
    "lost": "the machine was gone before it could write its end: invoke logs has the console output",
    "launch_failed": "the run never had a machine",
}


def what_to_do(record: Mapping[str, Any], preflight: Mapping[str, Any]) -> list[str]:
    """What to do about a run, most telling first; nothing for one that succeeded or goes on."""
    outcome = record.get("outcome")
    environment, run_id = record.get("environment", "ENV"), record.get("run_id", "RUN")
    if outcome in (None, "succeeded"):
        return []
    said = [
        f"{check.get('name')}: {check.get('remedy')}"
        for check in entries(preflight.get("checks"))
        if not check.get("ok") and check.get("remedy")
    ]
    late = reached_deadline(outcome, record.get("error"))
    if late or outcome == "interrupted":
        way = next_launch(environment, run_id, record.get("checkpoint_step"), record.get("resume_from"))
        why = "its deadline ended the run" if late else "EC2 took the spot machine back"
        return [f"{why}; go on with {way}"]
    by_step = None if outcome == "killed" else _BY_STEP.get(str(record.get("failed_step")))
    said += [words for words in (_BY_OUTCOME.get(str(outcome)), by_step) if words]
    if outcome != "launch_failed":  # which had no machine that could say anything
        said.append(f"all that the machine said: invoke logs --env {environment} --run {run_id}")
    return said
