"""Phantom radiographs: projections of chests built from ellipsoids and tubes, with the signs of five classes."""

from __future__ import annotations

from cxrdist.phantom.anatomy import CLASSES, describe
from cxrdist.phantom.render import Study, render

__all__ = ["CLASSES", "Study", "describe", "render"]
