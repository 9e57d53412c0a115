"""zoft inside Hugging Face ``transformers``."""

from zoft.hf.trainer import ZOTrainer, ZOTrainerMixin

__all__ = ["ZOTrainer", "ZOTrainerMixin"]
