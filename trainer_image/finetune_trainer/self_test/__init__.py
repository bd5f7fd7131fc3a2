"""What every attempt proves of its own model, kernels and data before the first step."""

from finetune_trainer.self_test.run import self_test

__all__ = ["self_test"]
