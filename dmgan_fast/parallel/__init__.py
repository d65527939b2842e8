"""Several processes as one: who is there, what of a batch each holds, exchanges with gradients, sums of gradients.

Imports torch only; alone, nothing here is called.
"""

from dmgan_fast.parallel.gradients import GradientSum
from dmgan_fast.parallel.processes import Processes, expected, restarted, rows_of
from dmgan_fast.parallel.rows import RowSplit
from dmgan_fast.parallel.shards import ShardedModel
from dmgan_fast.parallel.share import Share

__all__ = ["GradientSum", "Processes", "RowSplit", "ShardedModel", "Share", "expected", "restarted", "rows_of"]
