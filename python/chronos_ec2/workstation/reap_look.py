"""Look at what there is in one environment, for `invoke reap`. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError, LocalCloudDown, NoCredentials, StateUnreadable
from chronos_ec2.state.clock import from_text, utc_now
from chronos_ec2.state.json_text import decode_json
from chronos_ec2.state.machine import validate_state
from chronos_ec2.state.store import StateStore, state_key
from chronos_ec2.workstation.instances import live_instances
from chronos_ec2.workstation.outcome import instance_fate, nodes_of
from chronos_ec2.workstation.outside_switch import Switch
from chronos_ec2.workstation.reap_model import Holding, Machine, SpotRequest, Survey, Volume
from chronos_ec2.workstation.run_ids import RUN_ID
from chronos_ec2.workstation.s3 import get_json, list_prefix, translate, translated
from chronos_ec2.workstation.switch_service import OutsideSwitches

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

_Item = TypeVar("_Item")


@dataclass
class Lookout:
    """One environment, seen from outside.

    Attributes:
        bucket: the stack's; None when there is none, which makes reap as blind as S3 that is down.
        switches: the outside switches; None where the stack has none.
        now: a clock, for tests.
        trouble: why S3 could not be asked, as the error that it is.
        unseen: what else could not be listed.
    """

    s3: S3Client
    ec2: EC2Client
    bucket: str | None
    environment: str
    switches: OutsideSwitches | None = None
    now: Callable[[], datetime] = utc_now
    trouble: ChronosError | None = None
    unseen: list[tuple[str, str]] = field(default_factory=list)

    def survey(self) -> Survey:
        """What there is.

        The order matters. A switch that is seen was armed after its run had claimed the environment, and a
        machine that shows up after the state was read is too young to be ended: so switches come first, then
        the state, then machines.

        Raises:
            ChronosError: EC2 could not be asked, or there are no credentials.
        """
        self.unseen = []
        switches = self._switches()
        holding, staged, blind = self._from_s3()
        machines = self.machines()
        tags = [{"Name": f"tag:{key}", "Values": [value]} for key, value in self._tags().items()]
        return Survey(
            environment=self.environment,
            now=self.now(),
            holding=holding,
            machines=machines,
            staged=staged,
            blind=blind,
            switches=switches,
            wants_switch=self._wants_switch(holding, switches, machines),
            volumes=self._listed("volumes", lambda: self._volumes(tags)),
            spot_requests=self._listed("spot requests", lambda: self._spot_requests(tags)),
            unseen=tuple(self.unseen),
        )

    def machines(self) -> list[Machine]:
        """The live instances of the environment, by their tags."""
        return [_machine(item) for item in live_instances(self.ec2, self.environment)]

    def holding(self) -> Holding | None:
        """The state file and what EC2 says of its instance; None when there is none."""
        assert self.bucket is not None
        store = StateStore(self.s3, self.bucket, self.environment, now=self.now)
        with translated(store.uri):
            raw = store.read_raw()
        if raw is None:
            return None
        try:
            body = validate_state(decode_json(raw[0]))
            started = from_text(body["timestamps"]["start"])
        except (StateUnreadable, ValueError, RecursionError) as error:
            return Holding(None, raw[1], problem=f"the state file is corrupt ({error})")
        instance = (self.ec2, self.environment, body["run_id"], body["instance_id"])
        fate = instance_fate(*instance, nodes=nodes_of(body), started_at=started, now=self.now)
        return Holding(body, raw[1], fate=fate)

    def _tags(self) -> dict[str, str]:
        return {"Project": "Chronos-Training", "Environment": self.environment}

    def _from_s3(self) -> tuple[Holding | None, list[tuple[str, datetime]], str | None]:
        """The holding, what is staged, and why S3 did not tell."""
        if self.bucket is None:
            return None, [], str(self.trouble or "there is no bucket to ask")
        try:
            holding = self.holding()
            staged = list_prefix(self.s3, self.bucket, f"{state_key(self.environment)}.tmp-")
        except (NoCredentials, LocalCloudDown):
            raise
        except ChronosError as error:
            self.trouble = error
            return None, [], str(error)
        return holding, [(item.key, item.modified) for item in staged], None

    def _switches(self) -> list[Switch] | None:
        if self.switches is None:
            return None
        try:
            return [item for item in self.switches.armed() if item.environment == self.environment]
        except ChronosError as error:
            self.unseen.append(("outside switches", str(error)))
            return None

    def _wants_switch(
        self, holding: Holding | None, switches: list[Switch] | None, machines: Iterable[Machine]
    ) -> bool:
        """Asks the record only where it matters: a run with an instance and without a switch."""
        run_id = holding.run_id if holding else None
        if self.bucket is None or switches is None or run_id is None or not RUN_ID.fullmatch(run_id):
            return False
        armed = {item.node for item in switches if item.run_id == run_id}
        if not {item.node for item in machines if item.run_id == run_id} - armed:
            return False
        try:
            record = get_json(self.s3, self.bucket, f"{self.environment}/{run_id}/run.json") or {}
        except ChronosError:
            return False  # what the run was launched with is not known: nothing is added to it
        return isinstance(record.get("switches"), dict) and record["switches"].get("outside") is not None

    def _listed(self, what: str, look: Callable[[], list[_Item]]) -> list[_Item]:
        """What a call lists; a call that fails hides nothing but that."""
        try:
            return look()
        except (ClientError, BotoCoreError) as error:
            self.unseen.append((what, f"could not be listed: {translate(error, 'EC2')}"))
            return []

    def _volumes(self, tags: list[Any]) -> list[Volume]:
        wanted = [*tags, {"Name": "status", "Values": ["available"]}]
        pages = self.ec2.get_paginator("describe_volumes").paginate(Filters=wanted)
        return [
            Volume(item["VolumeId"], _tag(item, "RunId"), item["CreateTime"], item["Size"])
            for page in pages
            for item in page["Volumes"]
        ]

    def _spot_requests(self, tags: list[Any]) -> list[SpotRequest]:
        wanted = [*tags, {"Name": "state", "Values": ["open", "active"]}]
        pages = self.ec2.get_paginator("describe_spot_instance_requests").paginate(Filters=wanted)
        return [
            SpotRequest(item["SpotInstanceRequestId"], _tag(item, "RunId"), item["CreateTime"])
            for page in pages
            for item in page["SpotInstanceRequests"]
        ]


def _machine(item: Mapping[str, Any]) -> Machine:
    due = _tag(item, "Deadline")
    try:
        deadline = from_text(due) if due else None
    except ValueError:
        deadline = None
    return Machine(
        item["InstanceId"],
        _tag(item, "RunId"),
        item["LaunchTime"],
        deadline,
        item.get("InstanceType"),
        item.get("InstanceLifecycle") or "on-demand",
        int(item.get("AmiLaunchIndex") or 0),
    )


def _tag(item: Mapping[str, Any], key: str) -> str | None:
    return next((str(tag["Value"]) for tag in item.get("Tags", []) if tag["Key"] == key), None)
