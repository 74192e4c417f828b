"""A decoder trained against a discriminator: one step's gradients for both.

The adversarial terms are weighed by their gradients at the waveform, not by their values: each gets a fraction of the
norm that the reconstruction's gradient has there, whatever the discriminator's own strength (Défossez et al. 2022,
section 3.4). So the decoder needs one backward pass for all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from musicldm.core.devices import autocast
from musicldm.nn.discriminator import Discriminator, adversarial_loss, discriminator_loss, feature_loss
from musicldm.training.trainable import Trainable


def adversarial_backward(
    training: Trainable[Any],
    discriminator: Discriminator,
    target: Tensor,
    output: Tensor,
    terms: dict[str, Tensor],
    adversarial: float,
    features: float,
) -> dict[str, Tensor]:
    """Add the gradients of a micro-batch to the decoder and to the discriminator.

    Args:
        target: waveforms [B, C, T].
        output: their reconstructions, with the graph that led to them.
        terms: of the loss: `reconstruction`, which compares the two, and what else is to be logged; where there is
            `prior`, it is minimised too.
        adversarial: the norm of the adversarial loss' gradient at the waveform, as a fraction of the reconstruction's.
        features: that of feature matching, likewise.

    Returns:
        All terms, detached.
    """
    with autocast(training.training_config.precision, training.device):
        # A leaf: what comes back through the discriminator stops here, to be weighed before it goes on to the decoder.
        at_output = output.detach().requires_grad_()
        real, fake = discriminator(target), discriminator(at_output)
    terms["discriminator"] = discriminator_loss(real, fake)
    terms["adversarial"] = adversarial_loss(fake)
    terms["features"] = feature_loss(real, fake)
    share = training.weight_of_group / training.training_config.accumulate
    weight = training.scaler.scale(torch.ones((), device=training.device)) * share
    # As far as the waveform only. This frees the graph of the losses; that of the network is still needed.
    gradient = torch.autograd.grad(terms["reconstruction"], output)[0]
    norm = gradient.norm()
    for name, fraction in (("adversarial", adversarial), ("features", features)):
        # Scaled lest it vanish in 16 bits; the scale goes out again with the norm. The graph is kept for the other
        # term and for the discriminator's own loss.
        other = torch.autograd.grad(training.scaler.scale(terms[name]), at_output, retain_graph=True)[0]
        gradient = gradient + other * (fraction * norm / other.norm().clamp_min(1e-20))
    # Without `inputs`, a gradient for the waveform would be computed here as well, which nobody wants.
    torch.autograd.backward(weight * terms["discriminator"], inputs=list(discriminator.parameters()))
    # A product whose gradient at the waveform is the one put together above: one pass through the network for all.
    whole = (gradient.detach() * output).sum() * weight
    torch.autograd.backward(whole + weight * terms["prior"] if "prior" in terms else whole)
    return {name: value.detach() for name, value in terms.items()}
