"""What an update computes: the loss of a batch, and gradients that are averaged and clipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.base import Seq2Seq
from ..models.batches import Batch
from ..models.loss import cross_entropy


class TrainStep(nn.Module):
    """A model with its loss: what DistributedDataParallel wraps."""

    def __init__(self, model: Seq2Seq, label_smoothing: float):
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed smoothed loss and summed negative log-likelihood of the target tokens."""
        states = self.model(batch.source, batch.source_mask, batch.target_in)
        weight, bias = self.model.projection.weight, self.model.projection.bias
        states, targets = batch.of_targets(states), batch.of_targets(batch.target_out)
        return cross_entropy(states, weight, bias, targets, self.label_smoothing)


def average_and_clip(gradients: list[Tensor], divisor: float, largest: float | None) -> Tensor:
    """Divide summed gradients, then scale them down to a norm of at most ``largest``. Returns the norm before."""
    norm = torch.nn.utils.get_total_norm(gradients) / divisor
    scale = torch.full_like(norm, 1 / divisor)
    if largest is not None:
        scale *= (largest / (norm + 1e-9)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)
    return norm
