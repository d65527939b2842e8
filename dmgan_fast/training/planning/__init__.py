"""The memory planner: what a training step needs, and the cheapest policy under which it fits."""
