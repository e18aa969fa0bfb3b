"""A trained model for lm-eval's own command line: all its tasks and options, gates and all.

    python -m cl_lightning.export.lm_eval --model cl_lightning --model_args run=FOLDER --tasks piqa --batch_size 8

lm-eval lists the models of its own package only, so its command line is started here, once ours is known. In a script,
importing this module is enough for `lm_eval.simple_evaluate(model="cl_lightning", model_args={"run": FOLDER}, ..)`.
Needs the extra `general`.
"""

import sys
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from cl_lightning.common.errors import ConfigError, UserError
from cl_lightning.common.terminal import say_error
from cl_lightning.evaluation.general.harness import HarnessLM
from cl_lightning.export.load import load

#: The device that lm-eval's command line gives where the user gives none.
UNSAID = "cuda:0"


@register_model("cl_lightning")
class TrainedLM(HarnessLM):
    """The model of a run folder, or of a native export, in lm-eval. Tasks without chat template by default, as ever
    there; `--apply_chat_template` writes them with the template as it was in training, and `--system_instruction` gives
    it a system message.

    Args:
        run: the folder.
        after: the model after this task, or after so many; 0: the base.
        batch_size: sequences per forward pass; "auto" is not known here.
        device: as in `cl_lightning.load`, which also chooses for "cuda:0": lm-eval says so where it was told of none.
        dtype, trust_remote_code: as in `cl_lightning.load`.
        allow: a class of your own that the run may name.

    Raises:
        UserError: as `cl_lightning.load`; or a batch size that is no number.
    """

    def __init__(
        self,
        run: str,
        after: int | str | None = None,
        batch_size: int | str = 1,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        allow: str = "",
        trust_remote_code: bool = False,
        max_batch_size: Any = None,
    ) -> None:
        if not str(batch_size).isdecimal() or int(batch_size) < 1 or max_batch_size is not None:
            raise ConfigError(
                f"--batch_size: {batch_size} must be a number of 1 or more; automatic batch sizes are not supported"
            )
        allowed, where = [allow] if allow else [], None if device == UNSAID else device
        loaded = load(run, after, allow=allowed, trust_remote_code=trust_remote_code, device=where, dtype=dtype)
        adapter = loaded.module.adapter
        extra = adapter.forward_kwargs if adapter.per_sample else None
        super().__init__(loaded.model, loaded.tokenizer, loaded.module.answer_logits, int(batch_size), extra)


def main() -> int:
    """lm-eval's command line. Returns the exit code: 2 for bad input, told in one line."""
    try:
        cli_evaluate()
    except UserError as error:
        say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
