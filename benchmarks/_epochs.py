"""Time one epoch of training as users of either side run it.

Ours: `ContinualLM` with the data module's own sampler under Lightning's Trainer, options of experiments/_base.yaml.
Theirs: transformers' Trainer with its defaults except for logging and saving, padded to the longest of the batch.
"""

import tempfile
from typing import Any

import lightning.pytorch as pl
from _common import Stopwatch, device
from peft import PeftModel
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from cl_lightning.data.prompt import Encoded
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.module import ContinualLM

BATCH, RATE, CLIP = 8, 1e-3, 1.0


class _Loop(TrainerCallback):
    """Times the training loop of transformers' Trainer."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.watch.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.watch.stop()


class _LightningLoop(pl.Callback):
    """Times the training loop of Lightning's Trainer."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_start(self, *_: Any) -> None:
        self.watch.start()

    def on_train_end(self, *_: Any) -> None:
        self.watch.stop()


def our_epoch(module: ContinualLM, data: TaskSequence, task: int, watch: Stopwatch) -> float:
    """Time one epoch with the trainer options of experiments/_base.yaml."""
    data.activate(task)
    trainer = pl.Trainer(
        devices=1,
        max_epochs=1,
        gradient_clip_val=CLIP,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        callbacks=[_LightningLoop(watch)],
    )
    trainer.fit(module, datamodule=data)
    return watch.seconds


def their_epoch(
    model: PeftModel,
    examples: tuple[Encoded, ...],
    tokenizer: Any,
    watch: Stopwatch,
    optim: str = "adamw_torch",
) -> float:
    """Time one epoch with transformers' defaults except for logging and saving."""
    rows = [
        {
            "input_ids": [*e.prompt_ids, *e.answer_ids],
            "attention_mask": [1] * e.length,
            "labels": [-100] * len(e.prompt_ids) + list(e.answer_ids),
        }
        for e in examples
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=-(-len(rows) // BATCH),
            learning_rate=RATE,
            max_grad_norm=CLIP,
            optim=optim,
            use_cpu=device().type == "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        collate = DataCollatorForSeq2Seq(tokenizer, padding="longest")
        trainer = Trainer(model, settings, collate, train_dataset=rows, callbacks=[_Loop(watch)])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.seconds
