"""Checkpoints that are complete or absent: weights as safetensors, optimizers loadable with ``weights_only``.

checkpoints/images-<12 digits>/   <model>.safetensors, optimizers.pt, state.json with the digests of both
checkpoints/interim-<12 digits>/  the same between two looks, by time or on a signal; also ranks.pt
checkpoints/best.json             the best checkpoint, and its metrics

Only the newest interim checkpoint is kept, until the next look: a look draws, validates and averages over the ranks
what each of them has for itself, which an interim checkpoint holds as it is.

Checkpoints have no state of random generators: all random numbers of a job are functions of its seed and of a
position or step, which follow from the images seen.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from cxrdist.errors import UserError, from_os
from cxrdist.files import canonical_json, fsync_folder, read_json, sha256_file, write_atomic

log = logging.getLogger(__name__)

STATE = "state.json"
OPTIMIZERS = "optimizers.pt"
RANKS = "ranks.pt"
BEST = "best.json"
_NAME = re.compile("images-[0-9]{12}")
_INTERIM = re.compile("interim-[0-9]{12}")

RankState = dict[str, torch.Tensor]
"""What one rank has for itself between two looks: BatchNorm statistics of its images, sums of metrics."""


@dataclass(frozen=True)
class Loaded:
    """The content of a checkpoint, except for the weights, which ``load_checkpoint`` put into the models."""

    images: int
    optimizers: dict[str, dict[str, Any]]
    """``state_dict()`` of each optimizer, on the CPU."""
    state: dict[str, Any]
    ranks: list[RankState] | None = None
    """Of each rank, in an interim checkpoint."""


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint, copied to the CPU: training may go on while it is written."""

    images: int
    weights: dict[str, dict[str, torch.Tensor]]
    optimizers: dict[str, Any]
    state: dict[str, Any]
    ranks: list[RankState] | None

    @property
    def name(self) -> str:
        return f"{'images' if self.ranks is None else 'interim'}-{self.images:012d}"


def snapshot(
    images: int,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, dict[str, Any]],
    state: Mapping[str, Any],
    ranks: list[RankState] | None = None,
) -> Snapshot:
    """Copy what a checkpoint holds. ``models``: all models whose weights are saved, such as moving averages;
    ``optimizers``: their ``state_dict()``; ``state``: JSON values; ``ranks``: of an interim checkpoint."""
    weights = {name: _copied(model) for name, model in models.items()}
    return Snapshot(images, weights, _on_cpu(dict(optimizers)), copy.deepcopy(dict(state)), ranks)


def _copied(model: nn.Module) -> dict[str, torch.Tensor]:
    # A copy of each, since safetensors refuses weights that two layers share.
    return {
        name: weights.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, weights in model.state_dict().items()
    }


def _on_cpu(value: Any) -> Any:
    """A copy of nested mappings and sequences, with their tensors on the CPU, in their memory layouts."""
    if isinstance(value, torch.Tensor):
        on_cpu = value.detach().cpu()
        return on_cpu.clone() if on_cpu.data_ptr() == value.data_ptr() else on_cpu
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    return type(value)(_on_cpu(item) for item in value) if isinstance(value, (list, tuple)) else value


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights and buffers, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def save_weights(path: Path, model: nn.Module) -> None:
    """Write weights and buffers to a safetensors file, which is complete or absent."""
    write_atomic(path, save(_copied(model)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load weights and buffers. Raises UserError if the file does not exist, is not safetensors, or has the weights
    of another network."""
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train the model again") from None
    except Exception as error:
        raise UserError(f"{path}: not the weights of this network ({error})") from None


def write_checkpoint(folder: Path, taken: Snapshot, *, keep: int) -> None:
    """Write ``folder/images-<n>/``, or ``interim-<n>/``, under a temporary name, then rename it; remove all
    checkpoints but the newest ``keep``, the best one, and an interim one that is the newest of all. Only rank 0 calls
    this.

    Raises UserError if it cannot be written (a full disk); earlier checkpoints are unchanged then.
    """
    name = taken.name
    final, temporary = folder / name, folder / f".{name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a killed writer
            shutil.rmtree(leftover)
        temporary.mkdir()
        for model_name, weights in taken.weights.items():
            write_atomic(temporary / f"{model_name}.safetensors", save(weights))
        _write_torch(temporary / OPTIMIZERS, taken.optimizers)
        if taken.ranks is not None:
            _write_torch(temporary / RANKS, taken.ranks)
        files = {p.name: sha256_file(p) for p in sorted(temporary.iterdir())}
        write_atomic(
            temporary / STATE, canonical_json({"images": taken.images, "state": taken.state, "files": files})
        )
        shutil.rmtree(final, ignore_errors=True)  # incomplete, or the run would have resumed from it
        temporary.replace(final)
        fsync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise from_os(error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _prune(folder, name, keep)


def _write_torch(path: Path, value: Any) -> None:
    # Through memory: on a full disk torch.save raises a RuntimeError without the cause or the file.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_atomic(path, buffer.getvalue())


def _prune(folder: Path, newest: str, keep: int) -> None:
    """Remove all checkpoints but ``newest``, the ``keep`` last looks up to it and the best. Those after it are
    incomplete: the run resumed from an earlier one."""
    names = [p.name for p in folder.iterdir()]
    until = sorted(name for name in names if _is_look(name) and _images_of(name) <= _images_of(newest))
    kept = {newest, _best_name(folder), *until[-keep:]}
    for name in names:
        if name not in kept and _is_checkpoint(name):
            shutil.rmtree(folder / name, ignore_errors=True)


def _is_look(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _is_checkpoint(name: str) -> bool:
    return _is_look(name) or _INTERIM.fullmatch(name) is not None


def _images_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files all have their digests; None if there is none."""
    found = [path for path in folder.glob("*-*") if _is_checkpoint(path.name)]
    # At the same number of images, the look comes after the interim checkpoint.
    for path in sorted(found, key=lambda p: (_images_of(p.name), _is_look(p.name)), reverse=True):
        if is_whole(path):
            return path
        log.warning("%s: incomplete or damaged, so it is ignored", path)
    return None


def images_reached(folder: Path) -> int | None:
    """Images of the newest checkpoint by its name, whole or not; None if there is none."""
    return max(
        (_images_of(path.name) for path in folder.glob("*-*") if _is_checkpoint(path.name)), default=None
    )


def mark_best(folder: Path, images: int, why: Mapping[str, Any]) -> None:
    """Write ``folder/best.json``: the checkpoint at ``images`` is the best one, by the finite metrics ``why``. It is
    kept from then on. Raises UserError if there is no complete checkpoint."""
    name = f"images-{images:012d}"
    if not is_whole(folder / name):
        raise UserError(f"{folder / name}: not a complete checkpoint, so it cannot be the best one")
    write_atomic(folder / BEST, canonical_json({"checkpoint": name, "images": images, "why": dict(why)}))


def _best_name(folder: Path) -> str | None:
    path = folder / BEST
    if not path.exists():
        return None
    content = read_json(path)
    name = content.get("checkpoint") if isinstance(content, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{path}: does not name a checkpoint; remove it, and run the evaluation again")
    return name


def is_whole(path: Path) -> bool:
    """True if all files of a checkpoint have the digests in its state.json."""
    try:
        files = read_json(path / STATE)["files"]
        return all(sha256_file(path / name) == digest for name, digest in files.items())
    except (UserError, OSError, KeyError, TypeError):
        return False


def load_checkpoint(path: Path, models: Mapping[str, nn.Module]) -> Loaded:
    """Load a checkpoint's weights into the models, on their devices, and return the rest. Raises UserError if the
    weights belong to another network, or the optimizer file is not valid."""
    for name, model in models.items():
        load_weights(path / f"{name}.safetensors", model)
    ranks = None
    try:
        optimizers = torch.load(path / OPTIMIZERS, map_location="cpu", weights_only=True)
        if _INTERIM.fullmatch(path.name):
            ranks = torch.load(path / RANKS, map_location="cpu", weights_only=True)
        if not all(one.keys() >= {"state", "param_groups"} for one in optimizers.values()):
            raise ValueError("not a state_dict")
    except OSError:
        raise
    except Exception as error:  # on arbitrary bytes it may raise almost anything
        raise UserError(
            f"{path / OPTIMIZERS}: not the states of these optimizers ({type(error).__name__}); remove {path} "
            "to resume from the checkpoint before it"
        ) from error
    values = read_json(path / STATE)
    return Loaded(values["images"], optimizers, values["state"], ranks)
