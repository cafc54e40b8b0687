"""The feature spaces in which images are compared: the classifier's, a second one, and pixels (for copies)."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from cxrdist.data.transforms import to_float
from cxrdist.errors import OptionError, nearest
from cxrdist.nets.dcnn import DCNN
from cxrdist.nets.features import RandomFeatures
from cxrdist.run.checkpoint import weights_sha256

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
    features: str, classifier: DCNN, image_size: int, device: torch.device
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


def classifier_space(classifier: DCNN, device: torch.device) -> Space:
    """The means of the classifier's last feature maps; its logits come from the same forward pass.

    The means correspond to Inception's pool3 features, which FID uses. The hidden layer after them is closer to the
    classes, but has 256 to 1,024 units, more than a rare class has images; these are 64 in every preset.
    """
    digest, dims = weights_sha256(classifier), classifier.cfg.widths[-1]
    classifier.to(device).requires_grad_(False).eval()

    def embed(images: Tensor) -> Tensor:
        maps = classifier.stages(to_float(images))
        return torch.cat((maps.mean((2, 3)), classifier.mlp(maps.flatten(1))), 1)

    what = "means of the classifier's last feature maps"
    return Space(CLASSIFIER, what, dims, digest, embed, logits=classifier.cfg.classes)


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
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a launcher puts launch/ first; kept, since the function may import later
    make = _function(name)
    embed = _called(name, make)
    if isinstance(embed, nn.Module):
        embed = embed.to(device).eval()
    if not callable(embed):
        raise OptionError(
            "features", f"{name}: {name.partition(':')[2]}() returned {embed!r}, which is not callable"
        )

    def features(images: Tensor, is_alike_on_all_ranks: bool = False) -> Tensor:
        every_rank = not is_alike_on_all_ranks
        found = _called(name, embed, images, every_rank=every_rank)
        is_tensor = isinstance(found, Tensor)
        if is_tensor and found.ndim == 2 and len(found) == len(images) and found.is_floating_point():
            return found
        got = f"{found.dtype} {list(found.shape)}" if is_tensor else type(found).__name__
        raise OptionError(
            "features",
            f"{name}: for images {list(images.shape)} it returned {got}, expected float features "
            f"[{len(images)}, D]",
            every_rank=every_rank,
        )

    black = torch.zeros(2, 1, image_size, image_size, dtype=torch.uint8, device=device)
    with torch.no_grad():
        dims = features(black, is_alike_on_all_ranks=True).shape[1]
    digest = weights_sha256(embed) if isinstance(embed, nn.Module) else None
    return Space(name, "the user's own features", dims, digest, features)


def _called(name: str, function: Callable[..., Any], *images: Tensor, every_rank: bool = False) -> Any:
    try:
        return function(*images)
    except Exception as error:  # the user's code may raise anything
        raise OptionError("features", f"{name}: {_description(error)}", every_rank=every_rank) from error


def _function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise OptionError(
            "features", f"{name}: {error}; searched in {Path.cwd()} and the installed packages"
        ) from None
    except Exception as error:  # the user's code may raise anything
        raise OptionError("features", f"{name}: {_description(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise OptionError(
            "features",
            f"{name}: {module_name} has no function {function_name}{nearest(function_name, known)}",
        )
    return function


def _description(error: Exception) -> str:
    """Type, message and location of an exception, in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where.filename}, line {where.lineno})"
