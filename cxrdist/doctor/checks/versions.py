"""Versions of Python and packages against each other, and against those that this version was tested with."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.nvidia import driver
from cxrdist.doctor.options import DoctorOptions

CLONE = Path(__file__).resolve().parents[3]
SHOWN = ("torch", "accelerate", "deepspeed", "numpy", "webdataset", "wandb")
"""Whose versions are shown."""
BESIDE_TORCH = ("torchvision", "torchaudio", "xformers", "flash-attn", "triton")
"""Packages that are built for one version of torch; cxrdist uses none, but others import them if they are there."""


def look(_: DoctorOptions) -> Iterator[Finding]:
    project = _project()
    yield from _python(project)
    unmet = list(_unmet(_installed(), [Requirement(text) for text in project["dependencies"]]))
    yield from unmet
    if not unmet:
        yield ok("the requirements of all packages that cxrdist needs are met")
    yield from _beside_torch(_installed())
    yield from _tested(_installed())
    yield from _torches()
    yield from _cuda()


def _project() -> dict:
    """``requires-python`` and ``dependencies``, from the clone's pyproject.toml where there is one: the metadata of
    an editable install is as old as the install."""
    file = CLONE / "pyproject.toml"
    if file.is_file():
        table = tomllib.loads(file.read_text())["project"]
        extras = [text for extra in table["optional-dependencies"].values() for text in extra]
        return {
            "requires-python": table["requires-python"],
            "dependencies": table["dependencies"] + _there(extras),
        }
    found = metadata.metadata("cxrdist")
    required = [Requirement(text) for text in metadata.requires("cxrdist") or []]
    plain = [str(one) for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return {"requires-python": found["Requires-Python"], "dependencies": plain}


def _there(requirements: list[str]) -> list[str]:
    """Those of extras that are installed: the others were not asked for."""
    installed = _installed()
    return [text for text in requirements if canonicalize_name(Requirement(text).name) in installed]


def _installed() -> dict[str, metadata.Distribution]:
    """Installed packages by name; of one that is installed twice the first on sys.path, which is imported."""
    found: dict[str, metadata.Distribution] = {}
    for each in metadata.distributions():
        if each.metadata["Name"]:
            found.setdefault(canonicalize_name(each.metadata["Name"]), each)
    return found


def _python(project: dict) -> Iterator[Finding]:
    have = ".".join(map(str, sys.version_info[:3]))
    wanted = project["requires-python"]
    if have in SpecifierSet(wanted):
        yield ok(f"Python {have}")
    else:
        yield error(f"Python {have}, and cxrdist needs {wanted}", "make the environment with a newer Python")


def _unmet(
    installed: dict[str, metadata.Distribution], needed: list[Requirement], by: str = "cxrdist"
) -> Iterator[Finding]:
    """Requirements that are not met, of ``needed`` and of all that these need."""
    waiting = [(by, one) for one in needed]
    seen: set[str] = set()
    while waiting:
        parent, requirement = waiting.pop(0)
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        package = installed.get(name)
        if package is None:
            yield error(f"{parent} needs {requirement.name}, which is not installed", _install(requirement))
            continue
        if not requirement.specifier.contains(package.version, prereleases=True):
            what = f"{requirement.name} {package.version} is installed, and {parent} needs {requirement.specifier}"
            yield error(what, _install(requirement))
        if name not in seen:
            seen.add(name)
            waiting += [(name, one) for one in _requirements(package)]


def _requirements(package: metadata.Distribution) -> list[Requirement]:
    found = []
    for text in package.requires or []:
        try:
            found.append(Requirement(text))
        except InvalidRequirement:  # of an old package
            continue
    return found


def _install(requirement: Requirement) -> str:
    constraints = "-c constraints.txt " if (CLONE / "constraints.txt").is_file() else ""
    return f"pip install {constraints}'{requirement.name}{requirement.specifier}'"


def _beside_torch(installed: dict[str, metadata.Distribution]) -> Iterator[Finding]:
    torch = installed["torch"].version if "torch" in installed else None
    for name in BESIDE_TORCH:
        package = installed.get(name)
        for one in _requirements(package) if package is not None and torch is not None else []:
            is_met = one.marker is not None or one.specifier.contains(torch or "", prereleases=True)
            if canonicalize_name(one.name) == "torch" and not is_met and package is not None:
                yield warning(
                    f"{name} {package.version} needs torch{one.specifier}, and torch is {torch}",
                    f"install the {name} that was built for this torch, or pip uninstall {name}",
                )


def _tested(installed: dict[str, metadata.Distribution]) -> Iterator[Finding]:
    """Against constraints.txt, which has the versions that tests run with."""
    file = CLONE / "constraints.txt"
    lines = [line.partition("==") for line in file.read_text().splitlines()] if file.is_file() else []
    tested = {str(canonicalize_name(name)): version for name, _, version in lines if version}
    versions = {name: installed[name].version for name in SHOWN if name in installed}
    yield ok(", ".join(f"{name} {version}" for name, version in versions.items()))
    others = [
        f"{name} {version} (tested: {tested[name]})"
        for name, version in versions.items()
        if name in tested and version.partition("+")[0] != tested[name]
    ]
    if others:
        yield warning(
            f"other versions than those of the tests: {', '.join(others)}",
            "if something fails, install these first: pip install -c constraints.txt -e .",
        )


def _torches() -> Iterator[Finding]:
    """Folders of sys.path that have a torch: the first one is imported, whatever pip says."""
    folders = {Path(entry or ".", "torch", "__init__.py").resolve(): None for entry in sys.path}
    found = [str(path.parent) for path in folders if path.is_file()]
    if len(found) > 1:
        yield warning(
            f"torch is on sys.path {len(found)} times: {', '.join(found)}; the first one is used",
            "if the first is not the one you mean (`venv --system-site-packages` has two, and is fine), remove "
            "PYTHONPATH and ~/.local from the environment, or uninstall the others",
        )


def _cuda() -> Iterator[Finding]:
    """The CUDA that torch was built with, against the GPUs and the driver."""
    import torch

    found, built = driver(), torch.version.cuda
    if found is None or not found.gpus:
        return
    version = torch.__version__.partition("+")[0]
    if built is None:
        yield error(
            f"torch {torch.__version__} was built without CUDA, and this machine has NVIDIA GPUs",
            f"pip uninstall torch, then pip install torch=={version} from an index with CUDA builds (PyPI has them)",
        )
    elif found.cuda and _version(built) > _version(found.cuda):
        what = (
            f"torch was built with CUDA {built}, and the driver {found.gpus[0].driver} supports {found.cuda}"
        )
        cure = f"update the driver, or install a torch that was built with CUDA {found.cuda} or older"
        same_major = _version(built).major == _version(found.cuda).major
        # Forward compatibility packages make another major version work.
        works = same_major or torch.cuda.is_available()
        yield warning(what, f"if kernels fail: {cure}") if works else error(what, cure)


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")
