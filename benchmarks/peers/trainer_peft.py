"""A sequence of tasks as a careful user would write it with transformers' Trainer, PEFT and batched `generate`.

    python benchmarks/peers/trainer_peft.py WORK.json [--authors] [--autocast] [--random-order] [--unfused]
    python benchmarks/peers/trainer_peft.py WORK.json --try

For each task: PEFT's LoRA-GA start from gradients of some of its examples, one epoch with the Trainer, the LoRA merged
into the weights, and greedy answers to the test prompts of all tasks so far, batched by length. `--authors` prepares
and scores as the code of SLICE's authors does: gradients of the new task and of the old ones in full, over 8 batches of
the training batch size each; a projection per matrix where they oppose; prompts answered one at a time. Prints one line
of JSON: seconds by stage. `--try` times the first steps of a task for each setting of the Trainer and of PEFT instead.

WORK.json (`sequence.py` writes it) holds token ids, so that no time goes into templates and tokenising here.
"""

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from peft import LoraConfig, LoraGAConfig, PeftModel, get_peft_model
from peft.tuners.lora.loraga import get_target_modules, preprocess_loraga
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

#: Of SLICE's authors: batches whose gradients are summed, of each side.
AUTHORS_BATCHES = 8
#: Steps that `--try` times with each setting.
TRIED_STEPS = 8
Example = dict[str, list[int]]


class Peer:
    """The model and what is done with it.

    Args:
        work: the content of WORK.json.
        authors: whether to work as SLICE's authors do.
        settings: "autocast", "random_order" and "unfused": whether PEFT keeps float32 copies of its factors, whether
            batches are made in random order instead of by length, whether AdamW is the unfused one.
    """

    def __init__(self, work: dict[str, Any], authors: bool, settings: dict[str, bool]) -> None:
        self.work, self.authors, self.settings = work, authors, settings
        self.seconds: Counter[str] = Counter()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(work["model"])
        self.llm = AutoModelForCausalLM.from_pretrained(work["model"], dtype=getattr(torch, work["dtype"]))
        self.llm.to(torch.accelerator.current_accelerator() or "cpu")
        self.random = random.Random(0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds inside as those of a stage."""
        begun = time.perf_counter()
        yield
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.seconds[name] += time.perf_counter() - begun

    def run(self) -> None:
        """Work through the tasks."""
        tasks = self.work["tasks"]
        for number, task in enumerate(tasks):
            config = self._config()
            with self.stage("gradients"):
                self._gradients(config, task["train"], [e for old in tasks[:number] for e in old["train"]])
            with self.stage("start"):
                model = self._adapted(config)
            with self.stage("training"):
                self.train(model, task["train"])
            with self.stage("start"):
                self.llm = model.merge_and_unload()
            with self.stage("scoring"):
                for seen in tasks[: number + 1]:
                    self._answers(seen["test"], seen["max_new_tokens"])

    def _config(self) -> LoraConfig:
        return LoraConfig(
            r=self.work["rank"],
            lora_alpha=self.work["alpha"],
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            init_lora_weights="lora_ga",
            lora_ga_config=LoraGAConfig(),
        )

    def _adapted(self, config: LoraConfig) -> PeftModel:
        return get_peft_model(self.llm, config, autocast_adapter_dtype=self.settings["autocast"])

    def _gradients(self, config: LoraConfig, new: list[Example], old: list[Example]) -> None:
        """Give each adapted matrix the gradient that its start is made of."""
        batch = self.work["batch_size"]
        samples = AUTHORS_BATCHES * batch if self.authors else self.work["gradient_samples"]
        # transformers spells "all-linear" out only in PEFT's model, and `preprocess_loraga` comes before that.
        linear = {n.rpartition(".")[2] for n, m in self.llm.named_modules() if isinstance(m, nn.Linear)}
        config.target_modules = linear - {"lm_head"}
        self._sum(config, new, samples)
        if not (self.authors and old):
            return
        kept = {name: module._peft_loraga_grad for name, module in get_target_modules(self.llm, config)}
        self._sum(config, old, samples)
        for name, module in get_target_modules(self.llm, config):
            module._peft_loraga_grad = _reconciled(kept[name], module._peft_loraga_grad)

    def _sum(self, config: LoraConfig, examples: list[Example], samples: int) -> None:
        chosen = self.random.sample(examples, min(samples, len(examples)))

        def step() -> None:
            for rows in _batches(chosen, self.work["batch_size"]):
                self.llm(**self._training_batch(rows)).loss.backward()

        preprocess_loraga(self.llm, config, step)

    def _training_batch(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        made = DataCollatorForSeq2Seq(self.tokenizer, padding="longest")([_features(row) for row in rows])
        return {name: value.to(self.llm.device) for name, value in made.items()}

    def train(self, model: PeftModel, examples: list[Example]) -> None:
        """Train one epoch."""
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=self.work["batch_size"],
                num_train_epochs=1,
                learning_rate=self.work["lr"],
                lr_scheduler_type="linear",
                warmup_steps=1,
                max_grad_norm=1.0,
                optim="adamw_torch" if self.settings["unfused"] else "adamw_torch_fused",
                train_sampling_strategy="random" if self.settings["random_order"] else "group_by_length",
                use_cpu=self.llm.device.type == "cpu",
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            collate = DataCollatorForSeq2Seq(self.tokenizer, padding="longest")
            trainer = Trainer(model, arguments, collate, train_dataset=[_features(e) for e in examples])
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()

    @torch.no_grad()
    def _answers(self, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
        """Answer prompts greedily: by length and padded on the left, or one at a time as the authors do."""
        self.llm.eval()
        size = 1 if self.authors else self.work["eval_batch_size"]
        texts = []
        for rows in _batches(sorted(prompts, key=len), size):
            batch = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
            batch = batch.to(self.llm.device)
            out = self.llm.generate(
                **batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
            texts += self.tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts

    def try_settings(self) -> list[tuple[float, dict[str, bool]]]:
        """Time the first steps of the first task for each setting: seconds and setting, the fastest first."""
        examples, found = self.work["tasks"][0]["train"][: TRIED_STEPS * self.work["batch_size"]], []
        for values in itertools.product((False, True), repeat=len(self.settings)):
            self.settings = dict(zip(self.settings, values, strict=True))
            if self.settings["autocast"] and self.work["dtype"] == "float32":
                continue  # the same program
            config = self._config()
            config.init_lora_weights, config.lora_ga_config = True, None
            model = self._adapted(config)
            begun = time.perf_counter()
            self.train(model, examples)
            found.append((time.perf_counter() - begun, self.settings))
            self.llm = model.unload()
        return sorted(found, key=lambda one: one[0])


def _features(example: Example) -> dict[str, list[int]]:
    prompt, answer = example["prompt"], example["answer"]
    return {
        "input_ids": prompt + answer,
        "attention_mask": [1] * len(prompt + answer),
        "labels": [-100] * len(prompt) + answer,
    }


def _batches(rows: list[Any], size: int) -> Iterator[list[Any]]:
    for i in range(0, len(rows), size):
        yield rows[i : i + size]


def _reconciled(new: Tensor, old: Tensor) -> Tensor:
    """PCGrad, one-sided: take the part along `old` out of `new` where they oppose."""
    dot = (new * old).sum()
    return new - dot / (old * old).sum() * old if dot < 0 else new


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", metavar="WORK.json")
    parser.add_argument("--authors", action="store_true", help="prepare and score as SLICE's authors do")
    parser.add_argument("--autocast", action="store_true", help="PEFT's default: factors in float32")
    parser.add_argument("--random-order", action="store_true", help="the Trainer's default: batches in random order")
    parser.add_argument("--unfused", action="store_true", help="AdamW that is not fused")
    parser.add_argument("--try", dest="tries", action="store_true", help="time a few steps of each setting instead")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(0)
    with open(arguments.work, encoding="utf-8") as file:
        work = json.load(file)
    if work["threads"]:
        torch.set_num_threads(work["threads"])
    peer = Peer(work, arguments.authors, {n: getattr(arguments, n) for n in ("autocast", "random_order", "unfused")})
    if arguments.tries:
        print(json.dumps(peer.try_settings()))
        return 0
    peer.run()
    print(json.dumps(peer.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
