"""The frozen LLM and its LightningModule: loading, precision, loss, optimiser."""
