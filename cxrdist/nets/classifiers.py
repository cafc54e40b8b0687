"""The networks that a classifier may have: the paper's, two of MONAI, or the user's own; their features and weights.

All map images [B, 1, image_size, image_size] float32 in [-1, 1] to logits [B, classes].
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cxrdist.errors import UserError, nearest
from cxrdist.nets.configs import config_of
from cxrdist.nets.dcnn import DCNN, DCNNConfig
from cxrdist.nets.dcnn import init_weights as init_dcnn
from cxrdist.user_code import described, find_function


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What a classifier's network is built from; ``dataclasses.asdict`` gives its JSON."""

    network: str
    """dcnn, densenet121, resnet18, or ``package.module:build``: the user's function ``build(image_size, classes)``,
    which returns an nn.Module."""
    image_size: int
    """Side of the square image in pixels."""
    classes: int
    options: dict = field(default_factory=dict)
    """dcnn: widths, hidden, kernel and bias (DCNNConfig); others have none."""

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.classes < 2:
            raise UserError(
                f"a classifier needs at least 1 px and two classes, not {self.image_size} px and {self.classes}"
            )

    @property
    def is_own_code(self) -> bool:
        """True for ``package.module:build``."""
        return ":" in self.network


def dcnn_config(shape: DCNNConfig) -> NetworkConfig:
    """The config of a DCNN of this shape."""
    options = dataclasses.asdict(shape)
    image_size, classes = options.pop("size"), options.pop("classes")
    options["widths"] = list(shape.widths)  # as it comes back from JSON
    return NetworkConfig(network="dcnn", image_size=image_size, classes=classes, options=options)


DCNN_OPTIONS = ("widths", "hidden", "kernel", "bias")
"""Options of train_cls.py that shape a dcnn, and no other network."""


def network_config(options: Mapping[str, Any], *, image_size: int, classes: int) -> NetworkConfig:
    """The config of a network from the options of train_cls.py: ``network`` and DCNN_OPTIONS. Raises UserError for a
    shape that is not possible."""
    try:
        if options["network"] != "dcnn":
            return NetworkConfig(network=options["network"], image_size=image_size, classes=classes)
        shape = {name: options[name] for name in DCNN_OPTIONS} | {"widths": tuple(options["widths"])}
        return dcnn_config(DCNNConfig(size=image_size, classes=classes, **shape))
    except ValueError as error:
        raise UserError(str(error)) from None


def _dcnn(config: NetworkConfig) -> nn.Module:
    values = {**config.options, "size": config.image_size, "classes": config.classes}
    try:
        return DCNN(config_of(DCNNConfig, values))
    except (ValueError, TypeError, OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(f"invalid config of a dcnn ({str(error)[:200]})") from None


def _densenet121(config: NetworkConfig) -> nn.Module:
    return _monai().DenseNet121(spatial_dims=2, in_channels=1, out_channels=config.classes)


def _resnet18(config: NetworkConfig) -> nn.Module:
    return _monai().resnet18(pretrained=False, spatial_dims=2, n_input_channels=1, num_classes=config.classes)


def _monai() -> Any:
    try:
        from monai.networks import nets
    except ImportError:
        raise UserError(
            "this network is one of MONAI, which is not installed: pip install 'cxrdist[networks]'"
        ) from None
    return nets


NETWORKS: Mapping[str, Callable[[NetworkConfig], nn.Module]] = {
    "dcnn": _dcnn,
    "densenet121": _densenet121,
    "resnet18": _resnet18,
}


def build_network(config: NetworkConfig) -> nn.Module:
    """The network on the CPU, or on the meta device inside ``with torch.device("meta")``, with arbitrary weights. The
    state of torch's random numbers stays as it is.

    The user's own function is called, and its network tried with two images. Raises UserError for an unknown
    network, options or an image size that do not fit it, and whatever is wrong with the user's function.
    """
    return _built(config, seed=0)


def init_network(module: nn.Module, config: NetworkConfig, seed: int) -> None:
    """Set every weight and buffer, in place, as a function of ``seed`` alone, on any device.

    dcnn: cxrdist.nets.dcnn.init_weights. Others are built a second time, from random numbers of the seed, and their
    weights copied. The state of torch's random numbers stays as it is. Raises UserError as ``build_network`` does.
    """
    if isinstance(module, DCNN):
        init_dcnn(module, seed)
    else:
        module.load_state_dict(_built(config, seed).state_dict())


def _built(config: NetworkConfig, seed: int) -> nn.Module:
    with _own_random_numbers(seed):
        if config.is_own_code:
            return _from_own_code(config)
        if config.network not in NETWORKS:
            raise UserError(
                f"unknown network {config.network!r}{nearest(config.network, NETWORKS)}, or your own as "
                "package.module:build"
            )
        if config.network == "dcnn":
            return _dcnn(config)
        if config.options:
            raise UserError(f"{config.network} has no option {min(config.options)}")
        with torch.device("meta"):  # takes neither memory nor time, however large the image
            _try(NETWORKS[config.network](config), config)
        return NETWORKS[config.network](config)


@contextlib.contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Seed the generator of the CPU for the duration of the block."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        yield


def _from_own_code(config: NetworkConfig) -> nn.Module:
    name = config.network
    if config.options:
        raise UserError(f"{name} has no option {min(config.options)}")
    build = find_function(name)
    try:
        network = build(config.image_size, config.classes)
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"{name}: {described(error)}; called as build(image_size={config.image_size}, classes={config.classes})"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{name}: returned a {type(network).__name__}, expected a torch.nn.Module")
    _try(network, config)
    return network


def _try(network: nn.Module, config: NetworkConfig) -> None:
    """Raises UserError unless two black images give float logits [2, classes]. Statistics of batches stay as they
    are."""
    shape = [2, 1, config.image_size, config.image_size]
    was_training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(torch.full(shape, -1.0))
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{config.network}: cannot take images {shape}: {described(error)}") from error
    finally:
        network.train(was_training)
    is_tensor = isinstance(logits, Tensor)
    if is_tensor and logits.is_floating_point() and logits.shape == (2, config.classes):
        return
    got = f"{logits.dtype} {list(logits.shape)}" if is_tensor else f"a {type(logits).__name__}"
    raise UserError(
        f"{config.network}: for images {shape} it returned {got}, expected float logits [2, {config.classes}]"
    )


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """Penultimate features of images [B, 1, H, W] float32 in [-1, 1]: [B, D].

    DCNN: its vector f (paper Fig. 2), before the MLP. Others: the input of the nn.Linear that is called last,
    flattened. Raises UserError if the network calls none.
    """
    return features_and_logits(network, images)[0]


def features_and_logits(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The features [B, D] of ``features_of``, and the logits [B, classes], from one forward pass."""
    if isinstance(network, DCNN):
        features = network.features(images)
        return features, network.mlp(features)
    inputs: list[Tensor] = []
    logits = _watched(network, images, nn.Linear, lambda _, given: inputs.append(given))
    if not inputs:
        raise UserError(f"{type(network).__name__} calls no nn.Linear, so it has no penultimate features")
    return inputs[-1].flatten(1), logits


def cam_layer(network: nn.Module, images: Tensor) -> nn.Module:
    """The layer whose maps Grad-CAM weighs (Selvaraju et al. 2017): the network's own attribute ``cam_layer``, else
    the nn.Conv2d that is called last for images [B, 1, H, W] float32 in [-1, 1].

    Raises UserError if the network calls none, or its attribute is no nn.Module.
    """
    own = getattr(network, "cam_layer", None)
    if own is not None:
        if isinstance(own, nn.Module):
            return own
        raise UserError(
            f"{type(network).__name__}.cam_layer is a {type(own).__name__}, expected an nn.Module"
        )
    layer = _called_last(network, images, nn.Conv2d)
    if layer is None:
        raise UserError(f"{type(network).__name__} calls no nn.Conv2d, so there are no maps for Grad-CAM")
    return layer


def last_linear(network: nn.Module, images: Tensor) -> nn.Module:
    """The nn.Linear that is called last, whose input ``features_of`` gives for networks other than the DCNN. Raises
    UserError if the network calls none."""
    layer = _called_last(network, images, nn.Linear)
    if layer is None:
        raise UserError(
            f"{type(network).__name__} calls no nn.Linear, so there is no last layer to train alone"
        )
    return layer


@torch.no_grad()
def _called_last(network: nn.Module, images: Tensor, kind: type[nn.Module]) -> nn.Module | None:
    layers: list[nn.Module] = []
    _watched(network, images, kind, lambda layer, _: layers.append(layer))
    return layers[-1] if layers else None


def _watched(
    network: nn.Module, images: Tensor, kind: type[nn.Module], saw: Callable[[nn.Module, Tensor], None]
) -> Tensor:
    """The network's output; ``saw`` is called with every layer of a kind and its input, in the order of the forward
    pass."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        saw(layer, inputs[0])

    hooks = [layer.register_forward_pre_hook(hook) for layer in network.modules() if isinstance(layer, kind)]
    try:
        return network(images)
    finally:
        for one in hooks:
            one.remove()
