"""What the metadata service of an instance says, read from moto at each request."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from moto.sts.models import sts_backends

from chronos_ec2.local_cloud.metadata import Tree
from chronos_ec2.state.clock import to_text, utc_now

CREDENTIALS_SECONDS: Final = 3600
RENEW_BELOW: Final = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class _Credentials:
    document: str
    expires: datetime


class RoleCredentials:
    """Temporary credentials of an instance's role, from STS, renewed half an hour before they expire."""

    def __init__(self, instance: Any, now: Callable[[], datetime] = utc_now) -> None:
        self._instance = instance
        self._now = now
        self._lock = threading.Lock()
        self._current: _Credentials | None = None

    def document(self, role: Any) -> str:
        """The JSON that the metadata service answers with."""
        with self._lock:
            if self._current is None or self._current.expires - self._now() < RENEW_BELOW:
                self._current = self._fresh(role)
            return self._current.document

    def _fresh(self, role: Any) -> _Credentials:
        instance = self._instance
        sts = sts_backends[instance.owner_id][instance.ec2_backend.partition]
        assumed = sts.assume_role(
            region_name=instance.region_name,
            role_session_name=instance.id,
            role_arn=role.arn,
            policy="",
            duration=CREDENTIALS_SECONDS,
            external_id="",
        )
        expires = self._now() + timedelta(seconds=CREDENTIALS_SECONDS)
        fields = {
            "Code": "Success",
            "LastUpdated": to_text(self._now()),
            "Type": "AWS-HMAC",
            "AccessKeyId": assumed.access_key_id,
            "SecretAccessKey": assumed.secret_access_key,
            "Token": assumed.session_token,
            "Expiration": to_text(expires),
        }
        return _Credentials(json.dumps(fields, indent=2), expires)


def metadata_tree(instance: Any, credentials: RoleCredentials) -> Tree:
    """Every path that the instance's metadata service knows, each with the value's maker."""
    values: dict[str, str | None] = {
        **{f"meta-data/{name}": value for name, value in _identity(instance).items()},
        **{f"meta-data/{name}": value for name, value in _network(instance).items()},
        "dynamic/instance-identity/document": _identity_document(instance),
    }
    if instance.metadata_options.instance_metadata_tags == "enabled":
        for tag in instance.get_tags():
            values[f"meta-data/tags/instance/{tag['key']}"] = tag["value"]
    tree: Tree = {path: partial(str, value) for path, value in values.items() if value is not None}
    if instance.user_data is not None:
        tree["user-data"] = lambda: user_data_of(instance)
    profile = _profile(instance)
    if profile is not None and profile.roles:
        role = profile.roles[0]
        tree["meta-data/iam/info"] = lambda: _iam_info(profile)
        tree[f"meta-data/iam/security-credentials/{role.name}"] = lambda: credentials.document(role)
    return tree


def user_data_of(instance: Any) -> bytes:
    """The user data as the launcher wrote it, before base64."""
    return base64.b64decode(instance.user_data.as_bytes()) if instance.user_data is not None else b""


def _identity(instance: Any) -> dict[str, str | None]:
    zone = instance.placement.zone
    return {
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "block-device-mapping/ami": "/dev/sda1",
        "block-device-mapping/root": instance.root_device_name,
        "instance-action": "none",
        "instance-id": instance.id,
        "instance-life-cycle": instance.lifecycle or "on-demand",
        "instance-type": instance.instance_type,
        "placement/availability-zone": zone,
        "placement/group-name": instance.placement.group_name or None,
        "placement/region": instance.region_name,
        "profile": "default-hvm",
        "reservation-id": _reservation_id(instance),
        "security-groups": "\n".join(group.name for group in instance.security_groups),
        "services/domain": "amazonaws.com",
        "services/partition": instance.ec2_backend.partition,
    }


def _reservation_id(instance: Any) -> str | None:
    """The launch that the instance comes from, the same for all that it started."""
    launches = list(instance.ec2_backend.reservations.values())
    return next((one.id for one in launches if any(item is instance for item in one.instances)), None)


def _network(instance: Any) -> dict[str, str | None]:
    first = instance.nics[0]
    card = f"network/interfaces/macs/{first.mac_address}"
    return {
        "hostname": instance.private_dns_name,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": instance.private_ip,
        "mac": first.mac_address,
        "public-hostname": instance.public_dns_name,
        "public-ipv4": instance.public_ip,
        f"{card}/device-number": "0",
        f"{card}/local-ipv4s": instance.private_ip,
        f"{card}/owner-id": instance.owner_id,
        f"{card}/public-ipv4s": instance.public_ip,
        f"{card}/security-group-ids": "\n".join(group.id for group in instance.security_groups),
        f"{card}/subnet-id": instance.subnet_id,
        f"{card}/vpc-id": instance.vpc_id,
    }


def _identity_document(instance: Any) -> str:
    launched = instance.launch_time.replace(tzinfo=UTC)
    fields = {
        "accountId": instance.owner_id,
        "architecture": instance.architecture,
        "availabilityZone": instance.placement.zone,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "pendingTime": to_text(launched),
        "privateIp": instance.private_ip,
        "region": instance.region_name,
        "version": "2017-09-30",
    }
    return json.dumps(fields, indent=2)


def _profile(instance: Any) -> Any:
    association = instance.ec2_backend.iam_instance_profile_associations.get(instance.id)
    return association.iam_instance_profile if association is not None else None


def _iam_info(profile: Any) -> str:
    fields = {
        "Code": "Success",
        "LastUpdated": to_text(utc_now()),
        "InstanceProfileArn": profile.arn,
        "InstanceProfileId": profile.id,
    }
    return json.dumps(fields, indent=2)
