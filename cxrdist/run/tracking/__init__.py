"""Metrics of a run: in ``metrics.jsonl``, and in W&B unless disabled. The only room that imports W&B.

description   what a job says of itself: name, tags, config
wandb_start   description, <run>/wandb.json -> Tracker, or NoTracker if tracking is off
tracker       rows, pictures, charts, artifacts, summary -> the W&B run
"""

from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.metrics_file import MetricsFile
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.run.tracking.wandb_start import start

__all__ = ["MetricsFile", "NoTracker", "TrackingConfig", "start"]
