"""Proposes a spec for a checkpoint: its heads and their maps, from shapes and from weights.

`proposal.propose` is the way in. Names and shapes are enough for all of it but `evidence.py`, which
reads some weights and is imported only where there is something to weigh.
"""
