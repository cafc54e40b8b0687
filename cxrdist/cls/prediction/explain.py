"""Grad-CAM pictures: which part of a radiograph raises the probability of a class (Selvaraju et al. 2017), with
captum."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Picture

from cxrdist.cls.prediction.predict import Image
from cxrdist.data.transforms import to_float
from cxrdist.errors import UserError, from_os
from cxrdist.models import TrainedClassifier
from cxrdist.nets.classifiers import cam_layer

LIST = "pictures.csv"
HEAT_ALPHA = 0.45
SIDE_PX = 256
"""Pictures of smaller images are enlarged to this side."""


def grad_cam(classifier: TrainedClassifier, pixels: np.ndarray, class_index: int) -> np.ndarray:
    """[H, W] uint8 -> [H, W] float32 in [0, 1]: the positive part of the class activation, 1 at its maximum.

    Raises UserError if captum is not installed.
    """
    try:
        from captum.attr import LayerAttribution, LayerGradCam
    except ImportError:
        raise UserError("--explain needs captum: pip install 'cxrdist[explain]'") from None
    network = classifier.network
    # Grad-CAM needs gradients of activations, which a network without trainable weights does not record.
    images = to_float(torch.from_numpy(pixels)[None, None]).requires_grad_()
    layer = cam_layer(network, images.detach())
    maps = LayerGradCam(network, layer).attribute(images, target=class_index, relu_attributions=True)
    large = LayerAttribution.interpolate(maps, pixels.shape, interpolate_mode="bilinear")
    heat: np.ndarray = large[0, 0].detach().numpy()
    return heat / heat.max() if heat.max() > 0 else heat


def overlay(pixels: np.ndarray, heat: np.ndarray) -> Picture.Image:
    """The radiograph in grey beside itself under the heat map, [H, 2 W] RGB."""
    from matplotlib import colormaps

    grey = np.repeat(pixels[..., None], 3, axis=2).astype(np.float32) / 255
    colours = colormaps["inferno"](heat)[..., :3]
    weight = HEAT_ALPHA * heat[..., None]
    both = np.concatenate([grey, grey * (1 - weight) + colours * weight], axis=1)
    image = Picture.fromarray((both * 255).round().astype(np.uint8))
    factor = max(1, SIDE_PX // pixels.shape[0])
    return image.resize((image.width * factor, image.height * factor), Picture.Resampling.BILINEAR)


class Explainer:
    """Writes a picture of each image and ``pictures.csv``, which says of which image and class each picture is."""

    def __init__(self, classifier: TrainedClassifier, folder: Path) -> None:
        self.classifier, self.folder = classifier, folder
        self.written = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LIST).write_text("picture,image,class\n")
        except OSError as error:
            raise from_os(error) from error

    def __call__(self, image: Image, class_index: int) -> None:
        """Explain one class of an image."""
        assert image.pixels is not None
        name = f"{self.written:06d}.png"
        heat = grad_cam(self.classifier, image.pixels, class_index)
        overlay(image.pixels, heat).save(self.folder / name)
        with (self.folder / LIST).open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(
                [name, image.name, self.classifier.classes[class_index]]
            )
        self.written += 1
