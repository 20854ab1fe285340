"""The launch's own RunInstances call with --dry-run: EC2 checks permissions and all, and starts nothing."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation.commands import aws_environment
from chronos_ec2.workstation.doctor.facts import Facts
from chronos_ec2.workstation.doctor.findings import Finding, error, ok, warning
from chronos_ec2.workstation.doctor.image import image
from chronos_ec2.workstation.doctor.network import subnets
from chronos_ec2.workstation.doctor.tools import Machine, last_line
from chronos_ec2.workstation.launch_files import example_user_data
from chronos_ec2.workstation.pools import ladder_markets
from chronos_ec2.workstation.quotas import Market

_CODE: Final = re.compile(
    r"An error occurred \(([^)]+)\) when calling the RunInstances operation"
    r"(?: \(reached max retries: \d+\))?: (.*)",
    re.DOTALL,
)
_LACKS: Final = re.compile(r"is not authorized to perform: (\S+)(?: on resource: (\S+))?")
_ENCODED: Final = re.compile(r"Encoded authorization failure message: (\S+)")
_WOULD_HAVE: Final = "DryRunOperation"


def launch_permission(facts: Facts, machine: Machine) -> list[Finding]:
    """Whether EC2 would start the instance, and let the caller give it its role; a line a market."""
    return [_rehearse(facts, machine, market) for market in ladder_markets(facts.settings)]


def _rehearse(facts: Facts, machine: Machine, market: Market) -> Finding:
    name = facts.settings.instance_type
    with TemporaryDirectory() as folder:
        argv = dry_run_command(facts, machine, market, Path(folder))
        printed = machine.run(argv, aws_environment(facts.settings))
    refused = _CODE.search(printed.err)
    code, message = refused.groups() if refused else ("", last_line(printed))
    if code == _WOULD_HAVE:
        return ok(f"EC2 would start {name} {market}, with its role and tags")
    return _explain(facts, machine, f"{name} {market}", code, " ".join(message.split()))


def dry_run_command(facts: Facts, machine: Machine, market: Market, folder: Path) -> list[str]:
    """The call that `launch` would make, from the very program that makes its arguments, with --dry-run.

    Args:
        folder: where the user data and the facts may be written.
    """
    found, now = image(facts), facts.now()
    (folder / "user_data.sh").write_text(example_user_data(facts.settings))
    (folder / "facts.json").write_text(
        json.dumps({"ami": {"id": found["ImageId"], "root_device": found["RootDeviceName"]}})
    )
    texts = {
        "project": "Chronos-Training",
        "env": facts.settings.environment,
        "run_id": f"{now:%Y-%m-%d-%H%M%S}",
        "deadline": to_text(now + timedelta(hours=facts.settings.max_hours)),
        "token": secrets.token_hex(32),
        "type": facts.settings.instance_type,
        "subnet": str(subnets(facts)[0]["SubnetId"]),
        "market": market,
        "user_data": str(folder / "user_data.sh"),
    }
    values = {
        "settings": asdict(facts.settings),
        "exports": {name: facts.exports().get(name, "") for name in facts.wanted_exports},
    }
    program = machine.repository / "shell" / "lib" / "run_instances.jq"
    words = machine.run(
        [
            *("jq", "-nr"),
            *(word for key, text in texts.items() for word in ("--arg", key, text)),
            *(word for key, value in values.items() for word in ("--argjson", key, json.dumps(value))),
            *("--slurpfile", "facts", str(folder / "facts.json"), "-f", str(program)),
        ],
        None,
    )
    if words.code:
        raise RuntimeError(f"{program.name}: {last_line(words)}")
    return ["aws", *words.out.splitlines(), "--dry-run"]


def _explain(facts: Facts, machine: Machine, what: str, code: str, message: str) -> Finding:
    """A refusal in words, with the table that `launch` has for refusals."""
    encoded = _ENCODED.search(message)
    message = _ENCODED.sub("", message).strip()
    lacks = _LACKS.search(message)
    who = facts.identity()
    if lacks:
        on = f" on {lacks[2]}" if lacks[2] else ""
        return error(f"{who} may not {lacks[1]}{on}", f"allow {lacks[1]}{on} to {who} (an IAM policy)")
    if code == "UnauthorizedOperation" and encoded:
        advice = f"aws sts decode-authorization-message --encoded-message {encoded[1]}"
        return error(f"{who} may not start {what}: {message}", advice)
    entry = _table_entry(machine.repository, code)
    advice = str(
        entry.get("advice") or f"invoke launch --env {facts.settings.environment} --dry-run (to see the call)"
    )
    text = f"EC2 would refuse {what}: {code or 'no answer'}: {message}"
    return warning(text, advice) if entry.get("moves_on") else error(text, advice)


def _table_entry(repository: Path, code: str) -> Mapping[str, Any]:
    table = json.loads((repository / "shell" / "lib" / "launch_errors.json").read_text())
    entry: dict[str, Any] = table["errors"].get(code, {"kind": "other"})
    return {**table["kinds"][entry["kind"]], **entry}
