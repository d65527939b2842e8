"""The paper's experiments: ablations over seeds, and studies of what the memory does."""

from dmgan_fast.experiments.ablation import VARIANTS, ablate
from dmgan_fast.experiments.studies import STUDIES, study

__all__ = ["STUDIES", "VARIANTS", "ablate", "study"]
