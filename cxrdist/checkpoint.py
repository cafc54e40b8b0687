"""Checkpoints that are whole or absent: weights as safetensors, optimizers loadable with ``weights_only``."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from cxrdist.errors import UserError
from cxrdist.files import canonical_json, fsync_folder, read_json, sha256_file, write_atomic
from cxrdist.progress import say

STATE = "state.json"
OPTIMIZERS = "optimizers.pt"


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held beside the weights and optimizers, which are already in place."""

    images: int
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
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    keep: int = 2,
) -> None:
    """Write ``folder/images-<n>/`` whole, then remove all but the newest ``keep``. Rank 0 alone calls this."""
    final = folder / f"images-{images:012d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, model in models.items():
            save_weights(temporary / f"{name}.safetensors", model)
        # Through memory: onto a full disk torch.save raises a RuntimeError that names neither disk nor file.
        buffer = io.BytesIO()
        torch.save({name: o.state_dict() for name, o in optimizers.items()}, buffer)
        write_atomic(temporary / OPTIMIZERS, buffer.getvalue())
        files = {p.name: sha256_file(p) for p in sorted(temporary.iterdir())}
        write_atomic(
            temporary / STATE, canonical_json({"images": images, "state": dict(state), "files": files})
        )
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    fsync_folder(folder)
    for old in sorted(folder.glob("images-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; None where there is none."""
    for path in sorted(folder.glob("images-*"), reverse=True):
        if is_whole(path):
            return path
        say(f"{path}: not whole, left aside")
    return None


def is_whole(path: Path) -> bool:
    try:
        files = read_json(path / STATE)["files"]
        return all(sha256_file(path / name) == digest for name, digest in files.items())
    except (UserError, OSError, KeyError, TypeError):
        return False


def load_checkpoint(
    path: Path, models: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> Loaded:
    """Put a checkpoint's weights and optimizer states in place, on the device where the models are."""
    for name, model in models.items():
        load_weights(path / f"{name}.safetensors", model)
    try:
        states = torch.load(path / OPTIMIZERS, map_location="cpu", weights_only=True)
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(states[name])
    except OSError:
        raise
    except Exception as error:  # on foreign bytes it may raise nearly anything
        raise UserError(
            f"{path / OPTIMIZERS}: not the states of these optimizers ({type(error).__name__}); remove {path}, and "
            "the run goes on from the checkpoint before it"
        ) from error
    values = read_json(path / STATE)
    return Loaded(values["images"], values["state"])
