"""The losses of DM-GAN. None waits for the device."""

from dmgan_fast.losses.adversarial import discriminator_loss, generator_adversarial_loss, generator_loss
from dmgan_fast.losses.conditioning import conditioning_loss
from dmgan_fast.losses.damsm import SentenceLoss, WordsLoss, sentence_loss, words_loss

__all__ = [
    "SentenceLoss",
    "WordsLoss",
    "conditioning_loss",
    "discriminator_loss",
    "generator_adversarial_loss",
    "generator_loss",
    "sentence_loss",
    "words_loss",
]
