"""The frozen LLM and the LightningModule around it: loading, precision, loss, optimiser."""
