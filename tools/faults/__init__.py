"""Faults on purpose: what is left of a run that was killed, starved, cheated, or shared by mistake."""
