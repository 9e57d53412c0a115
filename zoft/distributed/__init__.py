"""Several processes that train one model: only scalars pass between them."""

from zoft.distributed.replicas import Replicas

__all__ = ["Replicas"]
