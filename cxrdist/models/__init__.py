"""Exported models: written by training, loaded and used without its code or state.

from cxrdist.models import load_generator
generator = load_generator("runs/gan/normal")
images = generator.sample("Normal", 16)  # [16, H, W] uint8

from cxrdist.models import load_classifier
classifier = load_classifier("runs/cls-ds3-seed0")
probabilities = classifier.probabilities(images)  # [16, classes] float32
"""

from cxrdist.models.classifiers import TrainedClassifier, export_classifier, load_classifier
from cxrdist.models.description import MODEL_FILE, Mismatch, mismatch_with
from cxrdist.models.generators import (
    ALL_CLASSES,
    TrainedGenerator,
    export_generator,
    load_generator,
    network_of,
    z_at,
    z_of,
)

__all__ = [
    "ALL_CLASSES",
    "MODEL_FILE",
    "Mismatch",
    "TrainedClassifier",
    "TrainedGenerator",
    "export_classifier",
    "export_generator",
    "load_classifier",
    "load_generator",
    "mismatch_with",
    "network_of",
    "z_at",
    "z_of",
]
