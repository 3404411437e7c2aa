"""Label-smoothed cross-entropy of hidden states and their projection."""

# N target positions, H hidden, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .layers import autocast_off, autocast_type

# Logits that are held at once. On a CPU 8 MiB of float32, which its cache holds; elsewhere enough
# that a chunk takes longer to compute than its operations to launch, in less than a GiB.
CHUNK, GPU_CHUNK = 2**21, 2**26


def cross_entropy(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Summed label-smoothed loss, and summed negative log-likelihood (without gradient), of states·weightᵀ + bias.

    states (N, H), weight (V, H), bias (V,), targets (N,) ids; all N count, so padding must have been left out. The
    smoothed loss is (1-ε)·nll + ε·mean over the vocabulary of -log p (Szegedy et al. 2016, section 7).
    """
    return _LinearCrossEntropy.apply(states, weight, bias, targets, label_smoothing)


class _LinearCrossEntropy(torch.autograd.Function):
    """Projection and cross-entropy in one, a chunk of positions at a time.

    The gradient of the logits is softmax - one-hot, so each chunk's share of all gradients is computed while its logits
    are in the cache, and the (N, V) logits never exist.
    """

    @staticmethod
    def forward(ctx, states, weight, bias, targets, label_smoothing):
        dtype = autocast_type(states) or weight.dtype
        states, weight_, bias_ = states.to(dtype), weight.to(dtype), bias.to(dtype)
        exact = torch.promote_types(dtype, torch.float32)
        training, vocabulary = any(ctx.needs_input_grad), len(weight)
        loss, likelihood = (states.new_zeros((), dtype=exact) for _ in range(2))
        if training:
            states_gradient = torch.empty_like(states)
            weight_gradient = torch.zeros_like(weight_, dtype=exact)
            bias_gradient = torch.zeros_like(bias_, dtype=exact)
        rows = max(1, (CHUNK if states.device.type == "cpu" else GPU_CHUNK) // vocabulary)
        room = torch.empty(min(rows, len(states)), vocabulary, dtype=dtype, device=states.device)
        with autocast_off(states):
            for start in range(0, len(states), rows):
                part = states[start : start + rows]
                target = targets[start : start + rows, None]
                logits = torch.mm(part, weight_.T, out=room[: len(part)]).add_(bias_).to(exact)
                # The arithmetic of log-softmax, with one exponential for the loss and the gradient together.
                top = logits.amax(dim=1, keepdim=True)
                chosen = logits.gather(1, target)
                total = logits.sum() if label_smoothing else None
                exponentials = logits.sub_(top).exp_()
                norm = exponentials.sum(dim=1, keepdim=True)
                log_norm = norm.log() + top
                nll = (log_norm - chosen).sum()
                likelihood += nll
                loss += nll
                if total is not None:
                    loss += label_smoothing * (log_norm.sum() - total / vocabulary - nll)
                if training:
                    gradient = exponentials.div_(norm)  # softmax
                    if label_smoothing:
                        gradient.sub_(label_smoothing / vocabulary)
                    one_hot = gradient.new_full(target.shape, label_smoothing - 1)
                    gradient.scatter_add_(1, target, one_hot)
                    bias_gradient += gradient.sum(dim=0)
                    gradient = gradient.to(dtype)
                    torch.mm(gradient, weight_, out=states_gradient[start : start + rows])
                    if dtype == exact:
                        weight_gradient.addmm_(gradient.T, part)
                    else:
                        weight_gradient += gradient.T @ part
        if training:
            ctx.save_for_backward(states_gradient, weight_gradient, bias_gradient)
        ctx.mark_non_differentiable(likelihood)
        return loss, likelihood

    @staticmethod
    @once_differentiable
    def backward(ctx, factor, _):
        states, weight, bias = ctx.saved_tensors
        return states * factor, weight * factor, bias * factor, None, None
