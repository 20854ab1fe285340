"""Trains a Chronos-T5 by Hugging Face's Trainer, as upstream's script does: a `trainer: command` to copy.

    invoke launch --env dev --set trainer=command --set checkpoint_every_steps=1000 --set 'command=["python3",
      "-m", "chronos_ec2.instance.trainers.t5_hugging_face", "--data", "{data}", "--output", "{output}",
      "--checkpoints", "{checkpoints}", "--save-steps", "{checkpoint_every_steps}", "--max-steps", "20000"]'

Values become tokens by the library's own tokenizer; a T5 with random weights learns to foretell them. What
the Trainer prints becomes metrics. On SIGTERM it saves and exits with 75; started again it goes on from its
newest checkpoint. The model is in OUTPUT/models/chronos-t5, for `BaseChronosPipeline.from_pretrained`.

Unlike upstream's it reads our data (docs/data.md) and needs no gluonts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from chronos.chronos import ChronosConfig
from transformers import T5Config, T5ForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from chronos_ec2.data.columns import Columns
from chronos_ec2.data.series import load_series
from chronos_ec2.instance.trainers.checkpoints import take_request
from chronos_ec2.instance.trainers.command_line import EXIT_INTERRUPTED, EXIT_OK
from chronos_ec2.instance.trainers.rehearsal import StopRequest

SIZES: Final = {
    "tiny": {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 2, "num_heads": 4},
    "mini": {"d_model": 384, "d_kv": 64, "d_ff": 1536, "num_layers": 4, "num_heads": 8},
}


class TokenWindows(torch.utils.data.Dataset[Any]):
    """Windows as tokens; each is drawn from seed and place alone, so that a resumed run finds it again."""

    def __init__(self, folder: Path, config: ChronosConfig, count: int, seed: int) -> None:
        self._past, self._ahead = config.context_length, config.prediction_length
        self._series = load_series(folder, Columns(), self._past + 2 * self._ahead, held_out=self._ahead)
        self._tokenizer = config.create_tokenizer()
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self._seed, place])
        number = int(rng.integers(len(self._series)))
        start, stop = self._series.offsets[number : number + 2].tolist()
        # The last values of every series are held out, as by the other trainers.
        cut = int(rng.integers(start + self._past, stop - 2 * self._ahead + 1))
        window = torch.from_numpy(self._series.targets[:1, cut - self._past : cut + self._ahead].copy())
        tokens, mask, scale = self._tokenizer.context_input_transform(window[:, : self._past])
        labels, told = self._tokenizer.label_input_transform(window[:, self._past :], scale)
        labels[~told] = -100  # what the loss passes over
        return {"input_ids": tokens[0], "attention_mask": mask[0], "labels": labels[0]}


class SaveWhenAsked(TrainerCallback):
    """Saves and stops on SIGTERM, and saves when the wrapper asks for a checkpoint."""

    def __init__(self, stop: StopRequest, checkpoints: Path) -> None:
        self._stop, self._checkpoints = stop, checkpoints

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Told by the Trainer after every update."""
        control.should_save |= self._stop.requested or take_request(self._checkpoints)
        control.should_training_stop |= self._stop.requested
        return control


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or go on training.

    Returns:
        0 done; 75 stopped after a checkpoint.
    """
    given = _parser().parse_args(argv)
    config = _chronos_config(given.context_length, given.prediction_length)
    data = TokenWindows(given.data, config, given.max_steps * given.batch_size, given.seed)
    torch.manual_seed(given.seed)
    model = T5ForConditionalGeneration(_t5_config(given.model_size, config))
    stop = StopRequest()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(given.checkpoints),
            max_steps=given.max_steps,
            per_device_train_batch_size=given.batch_size,
            learning_rate=given.learning_rate,
            logging_steps=given.log_steps,
            save_strategy="steps",
            save_steps=given.save_steps,
            save_total_limit=2,
            seed=given.seed,
            report_to=[],
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
        ),
        train_dataset=data,
        callbacks=[SaveWhenAsked(stop, given.checkpoints)],
    )
    stop.install()
    newest = get_last_checkpoint(given.checkpoints) if given.checkpoints.is_dir() else None
    # At its last step the Trainer would make one more.
    if newest is None or not newest.endswith(f"-{given.max_steps}"):
        trainer.train(resume_from_checkpoint=newest)
        if trainer.state.global_step < given.max_steps:
            return EXIT_INTERRUPTED
    else:
        model = T5ForConditionalGeneration.from_pretrained(newest)
    if trainer.is_world_process_zero():
        model.save_pretrained(given.output / "models" / "chronos-t5")
    return EXIT_OK


def _chronos_config(context_length: int, prediction_length: int) -> ChronosConfig:
    """How values become tokens, as in the published models."""
    return ChronosConfig(
        tokenizer_class="MeanScaleUniformBins",
        tokenizer_kwargs={"low_limit": -15.0, "high_limit": 15.0},
        context_length=context_length,
        prediction_length=prediction_length,
        n_tokens=4096,
        n_special_tokens=2,
        pad_token_id=0,
        eos_token_id=1,
        use_eos_token=True,
        model_type="seq2seq",
        num_samples=20,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
    )


def _t5_config(size: str, config: ChronosConfig) -> T5Config:
    return T5Config(
        **SIZES[size],
        vocab_size=config.n_tokens,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.pad_token_id,
        initializer_factor=0.05,
        architectures=["T5ForConditionalGeneration"],
        chronos_config=asdict(config),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "output", "checkpoints"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model-size", choices=SIZES, default="tiny")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    numbers = {"context-length": 512, "prediction-length": 64, "max-steps": 1000, "batch-size": 32}
    for name, default in {**numbers, "save-steps": 100, "log-steps": 10, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
