"""The CDK app: one stack of free, standing resources that every training run uses.

Run by the CDK CLI (see cdk.json). It reads CDK context only and makes no AWS call:

    cdk deploy --method direct -c environments=dev,prod -c availability_zones=2

Context keys, all optional (chronos_cdk/settings.py): environments, availability_zones, log_retention_days,
glacier_after_days, notify_email, alarm_hours, instance_types, nodes.
"""

from __future__ import annotations

import sys

import aws_cdk as cdk

from chronos_cdk.settings import ContextError, StackSettings
from chronos_cdk.stack import ChronosTrainingStack


def main() -> None:
    """Synthesize the stack into the folder that the CDK CLI names."""
    # Off: the usage-statistics resource, which would be one more thing in the user's account.
    app = cdk.App(analytics_reporting=False)
    try:
        settings = StackSettings.from_context(app.node.try_get_context)
    except ContextError as error:
        sys.exit(f"cdk/app.py: {error}")
    # No account or region: one template, deployed to wherever the credentials point.
    ChronosTrainingStack(app, "ChronosTraining", settings=settings)
    app.synth()


if __name__ == "__main__":
    main()
