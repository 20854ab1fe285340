"""The test trainer: learns a linear quantile model from Parquet on one CPU core, in seconds.

    python -m chronos_ec2.instance.trainers.linear_quantile --config CONFIG.yaml --data DIR --output DIR

It is small but whole: it reads the data, holds out the end of every series, learns, writes checkpoints, goes
on from the newest one, and scores its forecast beside the seasonal-naive one. Paths in its events are
relative to the output folder.

Exit status: 0 done; 1 failed; 2 a wrong flag or setting; 3 `--fail-at-step`; 75 stopped by SIGTERM or SIGINT
after a checkpoint: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from chronos_ec2.data.series import load_series
from chronos_ec2.errors import SettingsError
from chronos_ec2.instance.events import EventWriter
from chronos_ec2.instance.trainers.command_line import run_trainer
from chronos_ec2.instance.trainers.rehearsal import Rehearsal, StopRequest
from chronos_ec2.instance.trainers.training import Trainer
from chronos_ec2.training_settings import LinearConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainer's command line.

    Returns:
        The exit status that the module's head lists.
    """
    return run_trainer(_train, LinearConfig, __doc__ or "", argv)


def _train(config: LinearConfig, arguments: argparse.Namespace) -> bool:
    stop = StopRequest()
    stop.install()
    if len(config.target) > 1 or config.past_covariates or config.known_covariates:
        raise SettingsError(
            "the test trainer learns from one target alone; trainer: chronos takes more columns"
        )
    trainer = Trainer(
        config=config,
        series=load_series(
            arguments.data, config.columns, config.min_length, held_out=config.prediction_length
        ),
        output=arguments.output,
        events=EventWriter(sys.stdout),
        stop=stop,
        rehearsal=Rehearsal.from_arguments(arguments),
    )
    return trainer.run()


if __name__ == "__main__":
    sys.exit(main())
