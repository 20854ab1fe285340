"""Clear what ended runs leave behind, one thing at a time: what stays is named, and hides nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO

from botocore.exceptions import BotoCoreError, ClientError

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.outside_switch import switch_name
from chronos_ec2.workstation.reap_leftovers import due
from chronos_ec2.workstation.reap_model import Action, Survey
from chronos_ec2.workstation.s3 import error_code, translate
from chronos_ec2.workstation.switch_service import OutsideSwitches

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

_GONE: Final = frozenset({"InvalidVolume.NotFound", "InvalidSpotInstanceRequestID.NotFound"})


class Cleaner:
    """What one environment's reaper does that ends no instance.

    Args:
        bucket: where staged states lie; None when S3 was not asked.
        switches: the outside switches; None where the stack has none.
    """

    def __init__(
        self,
        s3: S3Client,
        ec2: EC2Client,
        bucket: str | None,
        switches: OutsideSwitches | None,
        out: TextIO,
    ) -> None:
        self._s3 = s3
        self._ec2 = ec2
        self._bucket = bucket
        self._switches = switches
        self._out = out

    def clean(self, action: Action, survey: Survey) -> bool:
        """Do one thing; False when it could not be done, which has been said."""
        work: dict[str, Callable[[], Any]] = {
            "arm": lambda: self._arm(action, survey),
            "disarm": lambda: self._disarm(action),
            "delete": lambda: self._ec2.delete_volume(VolumeId=action.what),
            "cancel": lambda: self._ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[action.what]),
            "drop": lambda: self._s3.delete_object(Bucket=str(self._bucket), Key=action.what),
        }
        if action.kind not in work:
            return True
        try:
            work[action.kind]()
        except ChronosError as error:
            self._out.write(f"{error}\n")
            return False
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error_code(error) in _GONE:
                return True
            self._out.write(f"{action.what} stays: {translate(error, action.what)}\n")
            return False
        return True

    def _disarm(self, action: Action) -> None:
        assert self._switches is not None
        self._switches.disarm(action.what)

    def _arm(self, action: Action, survey: Survey) -> None:
        run_id = str(action.run_id)
        machine = next(
            item
            for item in survey.machines
            if item.run_id == run_id and switch_name(survey.environment, run_id, item.node) == action.what
        )
        deadline = due(survey, machine)
        assert self._switches is not None and deadline is not None
        self._switches.arm(survey.environment, run_id, machine.instance_id, deadline, machine.node)
        self._out.write(f"{action.what} is armed\n")
