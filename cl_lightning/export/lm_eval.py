"""Runs lm-eval's command line with trained models, gated ones included.

    python -m cl_lightning.export.lm_eval --model cl_lightning --model_args run=FOLDER --tasks piqa --batch_size 8

lm-eval lists only the models of its own package, so this module registers `cl_lightning` and then starts lm-eval. In a
script, import it and call `lm_eval.simple_evaluate(model="cl_lightning", model_args={"run": FOLDER}, ..)`.
Requires the extra `general`.
"""

import sys
from typing import Any

import torch

from cl_lightning.common.errors import ConfigError, UserError
from cl_lightning.common.packages import need
from cl_lightning.common.terminal import say_error

try:
    need("lm_eval", "lm-eval's command line", "'cl-lightning[general]'")
except ConfigError as missing:
    if __name__ != "__main__":
        raise
    say_error(missing)
    sys.exit(missing.exit_code)

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from cl_lightning.evaluation.general.harness import HarnessLM
from cl_lightning.export.load import load

#: The device that lm-eval's command line passes if the user sets none.
UNSAID = "cuda:0"


@register_model("cl_lightning")
class TrainedLM(HarnessLM):
    """The model of a run folder or a native export in lm-eval. As for other models, prompts have no chat template by
    default; `--apply_chat_template` applies the template of training, `--system_instruction` sets its system message.

    Args:
        run: the folder.
        after: the model after this task, or after this many; 0: the base.
        base: where the base model is now, as in `cl_lightning.load`.
        batch_size: sequences per forward pass; "auto" is not supported.
        device: as in `cl_lightning.load`; "cuda:0" also means None, because lm-eval passes it by default.
        dtype, trust_remote_code: as in `cl_lightning.load`.
        allow: a class of your own that may be created.

    Raises:
        UserError: see `cl_lightning.load`; or the batch size is not a positive integer.
    """

    def __init__(
        self,
        run: str,
        after: int | str | None = None,
        batch_size: int | str = 1,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        allow: str = "",
        base: str | None = None,
        trust_remote_code: bool = False,
        max_batch_size: Any = None,
    ) -> None:
        if not str(batch_size).isdecimal() or int(batch_size) < 1 or max_batch_size is not None:
            raise ConfigError(
                f"--batch_size: {batch_size} must be a number of 1 or more; automatic batch sizes are not supported"
            )
        allowed, where = [allow] if allow else [], None if device == UNSAID else device
        loaded = load(
            run, after, base=base, allow=allowed, trust_remote_code=trust_remote_code, device=where, dtype=dtype
        )
        adapter = loaded.module.adapter
        extra = adapter.forward_kwargs if adapter.per_sample else None
        rows = loaded.module.most_prompts(int(batch_size))
        super().__init__(loaded.model, loaded.tokenizer, loaded.module.answer_logits, rows, extra)


def main() -> int:
    """Run lm-eval's command line. Returns the exit code; bad input prints one line and returns 2."""
    try:
        cli_evaluate()
    except UserError as error:
        say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
