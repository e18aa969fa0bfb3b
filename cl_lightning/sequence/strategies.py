"""Which of Lightning's strategies a sequence runs under."""

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from cl_lightning.common.errors import ConfigError


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies that shard or split the model. Raises ConfigError."""
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise ConfigError(
            f"trainer.strategy: {type(strategy).__name__} splits the model, but boundary work and branches need whole "
            "layers; use ddp, and model.backbone.load_in_4bit=true where the base does not fit on one GPU"
        )
