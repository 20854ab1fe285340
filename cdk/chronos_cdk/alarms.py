"""The alarms on machines that live too long. Off unless asked for: each costs $0.10 a month."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from constructs import Construct

from chronos_cdk.notices import Notices

ALARM_PREFIX = "ChronosTraining-alive-too-long"
_SHORT, _LONG = Duration.minutes(5), Duration.hours(1)
_SHORT_REACH_HOURS = 24  # CloudWatch: periods of less than an hour reach back one day, longer ones seven


class LifetimeAlarms(Construct):
    """One alarm an instance type: some machine of that type has been alive without a gap for so many hours.

    No alarm can name an instance that is not there yet, a heartbeat of the guest's own falls silent with
    the guest that hangs, and alarms take no SEARCH. What the hypervisor reports needs no guest, and of an
    instance with detailed monitoring AWS/EC2 also keeps it under the dimension InstanceType. So launches ask
    for detailed monitoring when alarms are on (seven metrics, about $0.003 for each hour of a machine).

    The alarm counts machines, not runs: it also sees strangers of the same type that have detailed
    monitoring, and takes runs that follow each other within some ten minutes for one long one.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        hours: int,
        instance_types: Sequence[str],
        notices: Notices,
    ) -> None:
        super().__init__(scope, construct_id)
        notices.let_alarms_publish()
        action = actions.SnsAction(notices.topic)
        for instance_type in instance_types:
            self._alarm(hours, instance_type).add_alarm_action(action)

    def _alarm(self, hours: int, instance_type: str) -> cloudwatch.Alarm:
        period = _SHORT if hours <= _SHORT_REACH_HOURS else _LONG
        samples = cloudwatch.Metric(
            namespace="AWS/EC2",
            metric_name="CPUUtilization",
            dimensions_map={"InstanceType": instance_type},
            statistic=cloudwatch.Stats.SAMPLE_COUNT,
            period=period,
        )
        return samples.create_alarm(
            self,
            instance_type,
            alarm_name=f"{ALARM_PREFIX}-{instance_type}",
            alarm_description=f"A {instance_type} lives for {hours} h: invoke reap ends what nobody owns.",
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            threshold=1,
            evaluation_periods=round(hours * 60 / period.to_minutes()),
            # No machine, no samples: that is how it should be.
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
