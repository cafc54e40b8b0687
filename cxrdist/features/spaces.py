"""The feature spaces in which images are compared: the classifier's, a second one, and pixels (for copies)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from cxrdist.data.transforms import to_float
from cxrdist.errors import OptionError, UserError
from cxrdist.models import TrainedClassifier
from cxrdist.nets.classifiers import features_and_logits
from cxrdist.nets.dcnn import DCNN
from cxrdist.nets.features import RandomFeatures
from cxrdist.run.checkpoint import weights_sha256
from cxrdist.user_code import described, find_function

CLASSIFIER, PIXELS, LOGITS = "classifier", "pixels", "logits"
PIXEL_SIDE = 32


@dataclass(frozen=True)
class Space:
    """A map from images to features."""

    name: str
    what: str
    """Description in the results."""
    dims: int
    weights_sha256: str | None
    embed: Callable[[Tensor], Tensor]
    """Images [B, 1, H, W] uint8 -> features [B, dims + logits], on the device of the images."""
    logits: int = 0
    """Logits of a classifier, which are computed with its features and follow them."""


def spaces_of(
    features: str, classifier: TrainedClassifier, image_size: int, device: torch.device
) -> tuple[list[Space], Space]:
    """The two spaces of the metrics, and the pixel space, which is used in the search for copies only."""
    ours = classifier_space(classifier, device)
    if features == "random":
        second = random_space(image_size, device)
    else:
        second = named_space(features, image_size, device)
    return [ours, second], pixel_space()


def random_space(image_size: int, device: torch.device) -> Space:
    network = RandomFeatures(image_size)
    what = "means of the maps of a fixed untrained network, at several scales"
    return network_space("random", what, network, weights_sha256(network), device)


def classifier_space(classifier: TrainedClassifier, device: torch.device) -> Space:
    """The classifier's penultimate features; its logits come from the same forward pass.

    Of a DCNN the means of the last feature maps, which correspond to Inception's pool3 features, which FID uses. The
    hidden layer after them is closer to the classes, but has 256 to 1,024 units, and the maps themselves have 4,096
    values, more than a rare class has images; the means are 64 in every preset.
    """
    network, size = classifier.network.to(device), classifier.image_size

    def embed(images: Tensor) -> Tensor:
        features, logits = features_and_logits(network, to_float(images))
        if isinstance(network, DCNN):
            features = features.unflatten(1, (network.cfg.widths[-1], -1)).mean(2)
        return torch.cat((features, logits), 1)

    with torch.no_grad():
        black = torch.zeros(1, 1, size, size, dtype=torch.uint8, device=device)
        dims = embed(black).shape[1] - len(classifier.classes)
    what = "means of the classifier's last feature maps"
    if not isinstance(network, DCNN):
        what = f"penultimate features of the classifier, {classifier.config.network}"
    return Space(CLASSIFIER, what, dims, classifier.weights_sha256, embed, logits=len(classifier.classes))


def network_space(
    name: str,
    what: str,
    network: RandomFeatures,
    digest: str,
    device: torch.device,
) -> Space:
    network = network.to(device)
    return Space(name, what, network.dims, digest, lambda images: network(to_float(images)))


def pixel_space() -> Space:
    def embed(images: Tensor) -> Tensor:
        return adaptive_avg_pool2d(to_float(images), PIXEL_SIDE).flatten(1)

    return Space(PIXELS, f"images averaged down to {PIXEL_SIDE} px", PIXEL_SIDE**2, None, embed)


def named_space(name: str, image_size: int, device: torch.device) -> Space:
    """A space given as ``package.module:function``, which may lie in the current folder. The function takes no
    arguments and returns a callable from images [B, 1, H, W] uint8, on the job's device, to features [B, D].

    Raises UserError if the function is not found, fails, or returns something else; so does ``embed`` of the result.
    """
    try:
        make = find_function(name)
    except UserError as error:
        raise OptionError("features", str(error)) from error.__cause__
    embed = _called(name, make)
    if isinstance(embed, nn.Module):
        embed = embed.to(device).eval()
    if not callable(embed):
        raise OptionError(
            "features", f"{name}: {name.partition(':')[2]}() returned {embed!r}, which is not callable"
        )

    def features(images: Tensor) -> Tensor:
        found = _called(name, embed, images)
        is_tensor = isinstance(found, Tensor)
        if is_tensor and found.ndim == 2 and len(found) == len(images) and found.is_floating_point():
            return found
        got = f"{found.dtype} {list(found.shape)}" if is_tensor else type(found).__name__
        raise OptionError(
            "features",
            f"{name}: for images {list(images.shape)} it returned {got}, expected float features "
            f"[{len(images)}, D]",
        )

    black = torch.zeros(2, 1, image_size, image_size, dtype=torch.uint8, device=device)
    with torch.no_grad():
        dims = features(black).shape[1]
    digest = weights_sha256(embed) if isinstance(embed, nn.Module) else None
    return Space(name, "the user's own features", dims, digest, features)


def _called(name: str, function: Callable[..., Any], *images: Tensor) -> Any:
    try:
        return function(*images)
    except Exception as error:  # the user's code may raise anything
        raise OptionError("features", f"{name}: {described(error)}") from error
