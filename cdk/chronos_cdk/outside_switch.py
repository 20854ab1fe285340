"""The dead man's switch outside the machine: where a launch puts its schedule, and as whom it acts."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_scheduler as scheduler
from constructs import Construct

from chronos_cdk.identity import acknowledge_project_instances, project_instances

SCHEDULE_GROUP_NAME = "ChronosTraining"
SCHEDULER = "scheduler.amazonaws.com"


class OutsideSwitch(Construct):
    """A group for the schedules of the runs, and the role under which EventBridge Scheduler ends a machine.

    A launch adds one schedule that terminates its instance after the deadline, whatever has become of the
    machine, the network or the laptop. The first 14 million invocations a month are free.

    Attributes:
        group: The schedule group. Deleting the stack deletes it with every schedule in it.
        role: What Scheduler assumes. It may terminate this project's instances and nothing else.
    """

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self.group = scheduler.CfnScheduleGroup(self, "Group", name=SCHEDULE_GROUP_NAME)
        self.role = iam.Role(
            self,
            "Role",
            description="EventBridge Scheduler: ends Chronos training instances at their deadline",
            assumed_by=self._scheduler_of_this_account(),
            inline_policies={"EndInstances": iam.PolicyDocument(statements=[project_instances(self)])},
        )
        acknowledge_project_instances(self.role)

    def _scheduler_of_this_account(self) -> iam.IPrincipal:
        # Scheduler serves all accounts: without the conditions, a schedule in somebody else's account that
        # names this role would be carried out (the "confused deputy"). Its ARN is that of the group.
        source = {"aws:SourceAccount": Stack.of(self).account, "aws:SourceArn": self.group.attr_arn}
        return iam.ServicePrincipal(SCHEDULER, conditions={"StringEquals": source})
