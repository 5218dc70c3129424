"""rigbench measures a GPU rig, finds what holds it back, and predicts what a training run will take and cost."""

__version__ = "0.1.0"
