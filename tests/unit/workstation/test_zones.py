"""A stack takes no more zones than its region has."""

from __future__ import annotations

from typing import Any

import pytest

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.zones import ZONES, refuse_too_many_zones


class Region:
    """An EC2 that has these zones and counts how often it is asked."""

    def __init__(self, *names: str) -> None:
        self.names, self.asked = names, 0

    def describe_availability_zones(self, **arguments: Any) -> dict[str, Any]:
        assert arguments == ZONES
        self.asked += 1
        return {"AvailabilityZones": [{"ZoneName": name} for name in self.names]}


def test_more_zones_than_there_are_are_refused_with_those_there_are() -> None:
    tokyo: Any = Region("ap-northeast-1d", "ap-northeast-1a", "ap-northeast-1c")
    refuse_too_many_zones(tokyo, "ap-northeast-1", 3)
    with pytest.raises(SettingsError, match=r"zones: 4, .* has 3 in ap-northeast-1: .*1a, .*1c, .*1d"):
        refuse_too_many_zones(tokyo, "ap-northeast-1", 4)


def test_one_zone_is_everywhere_and_nobody_is_asked() -> None:
    nowhere: Any = Region()
    refuse_too_many_zones(nowhere, "us-west-1", 1)
    assert nowhere.asked == 0
