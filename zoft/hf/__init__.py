"""zoft inside Hugging Face ``transformers``."""

from zoft.hf.callback import ZOCallback
from zoft.hf.trainer import ZOTrainer, ZOTrainerMixin

__all__ = ["ZOCallback", "ZOTrainer", "ZOTrainerMixin"]
