"""The paper's experiments: ablations over seeds, and studies of what the memory does."""

from dmgan_fast.experiments.ablation import VARIANTS, ablate

__all__ = ["VARIANTS", "ablate"]
