"""Checkpoints that are whole or absent: weights as safetensors, optimizers loadable with ``weights_only``.

checkpoints/images-<12 digits>/   <model>.safetensors, optimizers.pt, state.json with the digests of both
checkpoints/best.json             which of them was found best, and why

No state of a random generator is kept: whatever is random in a job is a function of its seed and of a position
or step, and those follow from the images seen. So going on from a checkpoint is going on.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from cxrdist.console import say
from cxrdist.errors import UserError, from_os
from cxrdist.files import canonical_json, fsync_folder, read_json, sha256_file, write_atomic

STATE = "state.json"
OPTIMIZERS = "optimizers.pt"
BEST = "best.json"
_NAME = re.compile("images-[0-9]{12}")


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held beside the weights, which are already in place."""

    images: int
    optimizers: dict[str, dict[str, Any]]
    """As they were given to ``save_checkpoint``, on the CPU."""
    state: dict[str, Any]


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights and buffers, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def save_weights(path: Path, model: nn.Module) -> None:
    """Weights and buffers as one safetensors file, whole or not at all."""
    write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Raises UserError where the file is missing, is not safetensors, or holds another network's weights."""
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train the model again") from None
    except Exception as error:
        raise UserError(f"{path}: not the weights of this network ({error})") from None


def save_checkpoint(
    folder: Path,
    images: int,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, dict[str, Any]],
    state: Mapping[str, Any],
    *,
    keep: int,
) -> None:
    """Write ``folder/images-<n>/`` under a temporary name, then rename it; remove all but the newest ``keep`` and
    the best one. Rank 0 alone calls this.

    ``models``: all that have weights to keep, a moving average too; ``optimizers``: their ``state_dict()``;
    ``state``: what JSON holds. Raises UserError where it cannot be written (a full disk): the checkpoints before
    it are then as they were.
    """
    name = f"images-{images:012d}"
    final, temporary = folder / name, folder / f".{name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".images-*.tmp"):  # by a killed writer
            shutil.rmtree(left)
        temporary.mkdir()
        for model_name, model in models.items():
            save_weights(temporary / f"{model_name}.safetensors", model)
        # Through memory: onto a full disk torch.save raises a RuntimeError that names neither disk nor file.
        buffer = io.BytesIO()
        torch.save(dict(optimizers), buffer)
        write_atomic(temporary / OPTIMIZERS, buffer.getvalue())
        files = {p.name: sha256_file(p) for p in sorted(temporary.iterdir())}
        write_atomic(
            temporary / STATE, canonical_json({"images": images, "state": dict(state), "files": files})
        )
        shutil.rmtree(final, ignore_errors=True)  # one that is not whole, else the run had gone on from it
        temporary.replace(final)
        fsync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise from_os(error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _prune(folder, name, keep)


def _prune(folder: Path, newest: str, keep: int) -> None:
    """Remove all but ``newest``, the ``keep`` - 1 before it and the best. Those after it are not whole: the run
    has gone on from one before them."""
    found = sorted(p.name for p in folder.iterdir() if _NAME.fullmatch(p.name))
    until = [name for name in found if name <= newest]
    best = _best_name(folder)
    for name in found:
        if name not in until[-keep:] and name != best:
            shutil.rmtree(folder / name, ignore_errors=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; None where there is none."""
    for path in sorted(folder.glob("images-*"), reverse=True):
        if is_whole(path):
            return path
        say(f"{path}: not whole, left aside")
    return None


def mark_best(folder: Path, images: int, why: Mapping[str, Any]) -> None:
    """Write ``folder/best.json``: this checkpoint is the best, by the finite figures ``why``; it is then kept
    whatever follows. Raises UserError where there is no such checkpoint."""
    name = f"images-{images:012d}"
    if not is_whole(folder / name):
        raise UserError(f"{folder / name}: no whole checkpoint, so it cannot be the best one")
    write_atomic(folder / BEST, canonical_json({"checkpoint": name, "images": images, "why": dict(why)}))


def _best_name(folder: Path) -> str | None:
    path = folder / BEST
    if not path.exists():
        return None
    content = read_json(path)
    name = content.get("checkpoint") if isinstance(content, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{path}: names no checkpoint; remove it, and evaluate again")
    return name


def is_whole(path: Path) -> bool:
    try:
        files = read_json(path / STATE)["files"]
        return all(sha256_file(path / name) == digest for name, digest in files.items())
    except (UserError, OSError, KeyError, TypeError):
        return False


def load_checkpoint(path: Path, models: Mapping[str, nn.Module]) -> Loaded:
    """Put a checkpoint's weights in place, on the device where the models are, and return the rest. Raises
    UserError where the weights are another network's, or the optimizers' states are none."""
    for name, model in models.items():
        load_weights(path / f"{name}.safetensors", model)
    try:
        optimizers = torch.load(path / OPTIMIZERS, map_location="cpu", weights_only=True)
        if not all(one.keys() >= {"state", "param_groups"} for one in optimizers.values()):
            raise ValueError("no state_dict()")
    except OSError:
        raise
    except Exception as error:  # on foreign bytes it may raise nearly anything
        raise UserError(
            f"{path / OPTIMIZERS}: not the states of these optimizers ({type(error).__name__}); remove {path}, and "
            "the run goes on from the checkpoint before it"
        ) from error
    values = read_json(path / STATE)
    return Loaded(values["images"], optimizers, values["state"])
