"""Whatever lies in a shard set, a tar, a table or a run folder: no command of ours unpickles it or runs it."""

from __future__ import annotations

import ast
import io
import pickle
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrdist.cli.main import COMMANDS, dispatch
from cxrdist.config.yaml_files import load_yaml
from cxrdist.data.imaging.radiograph import EXTERNAL_ENCODINGS
from cxrdist.data.importers.registry import IMPORTERS
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.index import index_bytes, index_name
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import TarFile, index_row
from cxrdist.data.storage.store import LocalStore, store_of
from cxrdist.errors import UserError
from cxrdist.process import main as process_main
from cxrdist.run.checkpoint import load_checkpoint
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.forging import KEYS, STRATUM, TAR, forge, npy, sample, sample_members, tar_of
from tests.helpers.launching import CLONE

pytestmark = pytest.mark.slow

ENDINGS = ("pyd", "pickle", "pkl", "pth", "pt", "joblib", "png.pkl")


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    """The file that unpickling makes."""
    return tmp_path / "owned"


@pytest.fixture
def bomb(owned: Path) -> bytes:
    data = pickle.dumps(Touch(owned))
    pickle.loads(data)
    owned.unlink()  # it works
    return data


def objects(owned: Path) -> bytes:
    """An npy file whose unpickling makes a file."""
    data = npy(np.array([[Touch(owned)]], object))
    np.load(io.BytesIO(data), allow_pickle=True)
    owned.unlink()
    return data


def torch_bomb(owned: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": Touch(owned)}, buffer)
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    owned.unlink()
    return buffer.getvalue()


def index_of_tar(data: bytes, ending: str = ".png") -> bytes:
    """The index of its images, as an honest writer would have written it."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        images = {m.name.removesuffix(ending): m.offset_data for m in tar if m.name.endswith(ending)}
    tar_file = TarFile(LocalStore(Path()), "a.tar", STRATUM, 0, "png")
    return index_bytes([index_row(sample(key), tar_file, offset) for key, offset in images.items()], "a.tar")


def shards_commands(place: Path) -> Iterator[list[str]]:
    """Every command that takes a set, with no more than it needs."""
    assert isinstance(COMMANDS["shards"], dict)
    for name in COMMANDS["shards"]:
        yield ["shards", name, str(place)]
    yield ["shards", "info", str(place), "--json"]
    yield ["mix", "show", "DS1", "--shards", str(place)]
    yield ["mix", "show", "DS3", "--shards", str(place), "--synthetic", str(place)]
    yield ["mix", "order", "DS1", "--shards", str(place)]
    yield [
        "import",
        "webdataset",
        "--root",
        str(place),
        "--out",
        "imported",
        "--size",
        "16",
        "--workers",
        "1",
    ]


def run(words: list[str]) -> int:
    """The command's exit code. Raises whatever it would end with a traceback for."""
    with pytest.raises(SystemExit) as caught:
        process_main(lambda: dispatch(words))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def use(place: Path) -> Iterator[str]:
    """What reading the set through the library ends with."""

    def pixels() -> None:
        reader = ShardSet(place).stratum(*vars(STRATUM).values())
        for number in range(reader.samples):
            reader.pixels(number)

    def whole() -> None:
        list(ShardSet(place).stratum(*vars(STRATUM).values()).whole(0))

    def stream() -> None:
        Stream(ShardSet(place), None, {"Normal": {"real": len(KEYS)}}, StreamOptions(batch=3, seed=0)).read(0)

    for reading in (pixels, whole, stream):
        try:
            reading()
        except UserError as error:
            yield str(error)
        else:
            yield ""


def check_all(place: Path, owned: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """Exit code of each command; none runs what the set brings along, nor ends in a traceback."""
    codes = {}
    for words in shards_commands(place):
        codes[" ".join(words[:2])] = code = run(words)
        errors = capsys.readouterr().err
        assert not owned.exists(), words
        assert "Traceback" not in errors, words
        assert code in (0, 1, 2), words
        if code == 2:
            assert errors.startswith("error: ") and errors.count("\n") == 1, (words, errors)
    list(use(place))
    assert not owned.exists()
    return codes


Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands write by default lands in the test's own folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "configs").symlink_to(CLONE / "configs")


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("place", ["beside each sample", "in front", "behind"])
def test_pickles_in_a_tar(
    tmp_path: Path, owned: Path, bomb: bytes, capsys: Capture, ending: str, place: str
) -> None:
    honest = [sample_members(key) for key in KEYS]
    if place == "beside each sample":
        members = [m for key, of_key in zip(KEYS, honest) for m in (*of_key, (f"{key}.{ending}", bomb))]
    else:
        alone = [(f"z.{ending}", bomb)]
        all_of_them = [m for of_key in honest for m in of_key]
        members = alone + all_of_them if place == "in front" else all_of_them + alone
    tar = tar_of(*members)
    codes = check_all(forge(tmp_path / "set", tar=tar, index=index_of_tar(tar)), owned, capsys)
    assert (codes["shards info"], codes["shards verify"], codes["mix show"]) == (0, 1, 2)
    by_pixels, by_whole, by_stream = use(tmp_path / "set")
    # An index leads to the images alone; who reads the whole tar comes upon the pickle, and stops.
    assert (by_pixels, by_stream) == ("", "") and "unexpected member" in by_whole


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("member", ["png", "cls", "json"])
def test_a_member_that_is_a_pickle(
    tmp_path: Path, owned: Path, bomb: bytes, capsys: Capture, member: str
) -> None:
    for data in (bomb, objects(owned), torch_bomb(owned)):
        members = [m for key in KEYS for m in sample_members(key, **{member: data})]
        place = forge(tmp_path / f"set {len(data)}", tar=tar_of(*members))
        assert check_all(place, owned, capsys)["shards verify"] == 1


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("encoding", ["npy", *EXTERNAL_ENCODINGS.values()])
def test_an_npy_image_of_objects(
    tmp_path: Path, owned: Path, bomb: bytes, capsys: Capture, encoding: str
) -> None:
    for data in (objects(owned), bomb, torch_bomb(owned)):
        members = [m for key in KEYS for m in sample_members(key)]
        members = [
            (name.replace(".png", ".npy"), data if ".png" in name else other) for name, other in members
        ]
        members.sort()
        place = forge(
            tmp_path / f"set {len(data)}",
            tar=tar_of(*members),
            index=index_of_tar(tar_of(*members), ".npy"),
            manifest=lambda manifest: manifest | {"encoding": encoding},
        )
        assert check_all(place, owned, capsys)["shards verify"] == 1


@pytest.mark.usefixtures("inline")
def test_an_index_of_objects(tmp_path: Path, owned: Path, bomb: bytes, capsys: Capture) -> None:
    for data in (objects(owned), bomb):
        place = forge(tmp_path / f"set {len(data)}", index=data)
        assert check_all(place, owned, capsys)["shards verify"] == 1
        by_pixels, by_whole, by_stream = use(place)
        assert index_name(TAR) in by_pixels and index_name(TAR) in by_stream and not by_whole


@pytest.mark.usefixtures("inline")
def test_a_table_a_manifest_and_a_job_that_are_pickles(
    tmp_path: Path, owned: Path, bomb: bytes, capsys: Capture
) -> None:
    codes = check_all(forge(tmp_path / "table", table=lambda told: bomb), owned, capsys)
    assert (codes["shards info"], codes["shards verify"]) == (0, 1)
    for name in (MANIFEST, ".job.json"):
        capsys.readouterr()
        place = forge(tmp_path / name)
        (place / MANIFEST).unlink()
        (place / name).write_bytes(bomb)
        codes = check_all(place, owned, capsys)
        assert codes["shards info"] == 2
        command = [
            "import",
            "webdataset",
            "--root",
            str(tmp_path / "table"),
            "--out",
            str(place),
            "--size",
            "16",
        ]
        assert run(command) == 2
        assert not owned.exists()


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("name", sorted(set(IMPORTERS) - {"phantom"}))
def test_tables_and_images_of_a_source_that_are_pickles(
    tmp_path: Path, owned: Path, bomb: bytes, capsys: Capture, name: str
) -> None:
    root = tmp_path / "root"
    for folder in ("", "Normal", "images", "train", "test", "annotations"):
        (root / folder).mkdir(exist_ok=True)
        for file in ("a.png", "b.jpg", "c.dcm", "d.dicom", "e.npy", "f.tar", "salt"):
            (root / folder / file).write_bytes(bomb if "a" in file else objects(owned))
    for table in (
        *("labels.csv", "train.csv", "Data_Entry_2017_v2020.csv", "mimic-cxr-2.0.0-metadata.csv"),
        *("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "annotations/image_labels_train.csv"),
    ):
        (root / table).write_bytes(bomb)
    assert run(["import", name, "--root", str(root), "--out", "set", "--size", "16", "--workers", "1"]) == 2
    assert not owned.exists()
    *warnings, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and all(line.startswith("warning: ") for line in warnings)
    assert not (tmp_path / "work" / "set").exists()


def test_yaml_makes_no_objects(tmp_path: Path, owned: Path) -> None:
    path = tmp_path / "evil.yaml"
    for text in (
        f"name: !!python/object/apply:os.system ['touch {owned}']",
        f"name: !!python/object/new:subprocess.Popen [['touch', '{owned}']]",
        "name: !!python/name:os.system",
        f"x: &x\n  <<: !!python/object/apply:pathlib.Path.touch [{owned}]",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"evil\.yaml"):
            load_yaml(path)
        assert run(["mix", "show", str(path)]) == 2
        assert run(["study", "--config", str(path)]) == 2
        assert not owned.exists()


def test_optimizer_states_that_are_code(tmp_path: Path, owned: Path, bomb: bytes) -> None:
    model = torch.nn.Linear(1, 1)
    optimizers = {"cls": torch.optim.Adam(model.parameters()).state_dict()}
    save_checkpoint(tmp_path, 1, {"cls": model}, optimizers, {}, keep=1)
    (folder,) = tmp_path.glob("images-*")
    for data in (torch_bomb(owned), bomb):
        (folder / "optimizers.pt").write_bytes(data)
        with pytest.raises(UserError, match=r"optimizers\.pt: not the states of these optimizers"):
            load_checkpoint(folder, {"cls": model})
        (folder / "cls.safetensors").write_bytes(data)
        with pytest.raises(UserError, match=r"cls\.safetensors: not the weights of this network"):
            load_checkpoint(folder, {"cls": model})
        assert not owned.exists()
        save_checkpoint(tmp_path, 1, {"cls": model}, optimizers, {}, keep=1)


# ---- pipes


@pytest.mark.parametrize("url", ["pipe:touch owned", "pipe://touch owned", "pipe:touch owned|x.tar"])
def test_pipes_are_never_followed(tmp_path: Path, url: str, capsys: Capture) -> None:
    commands = [words for words in shards_commands(Path("SET")) if words[1] != "webdataset"]
    commands = [[url if word == "SET" else word for word in words] for words in commands]
    commands += [["import", name, "--root", url, "--out", "set"] for name in set(IMPORTERS) - {"phantom"}]
    commands += [["import", "phantom", "--out", url], ["report", url, "--out", "report"]]
    commands += [
        ["mix", "show", url],
        ["mix", "order", url],
        ["study", url],
        ["import", "csv", "--root", ".", "--table", url, "--out", "set"],
    ]
    before = sorted((tmp_path / "work").iterdir())
    for words in commands:
        assert run(words) == 2, words
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and errors.count("\n") == 1, (words, errors)
        assert sorted((tmp_path / "work").iterdir()) == before, words


@pytest.mark.parametrize(
    "url",
    [
        *("pipe:true", "pipe://true", "simplecache::s3://a/b", "filecache::file:///etc"),
        *("zip://a::memory://b.zip", "reference://::memory://x", "nothing://a/b", "eval://a"),
    ],
)
def test_urls_that_are_not_followed(url: str) -> None:
    with pytest.raises(UserError):
        ShardSet(url)
    with pytest.raises(UserError):
        store_of(url).exists(MANIFEST)


# ---- the source itself

NEVER_IMPORTED = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "runpy",
}
NEVER_CALLED = {
    *("eval", "exec", "compile", "__import__", "breakpoint"),
    *(
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
        "np.fromfile",
        "np.fromregex",
    ),
    *("np.load", "numpy.load", "pd.read_pickle", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "shutil.unpack_archive"),
    *("tarfile.TarFile.extractall",),
}
SOURCES = sorted([*(CLONE / "cxrdist").rglob("*.py"), *(CLONE / "launch").rglob("*.py")])


def problems_of(source: str) -> Iterator[str]:
    """Everything in Python source by which foreign bytes might run."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in NEVER_IMPORTED)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in NEVER_CALLED or name.endswith((".extractall", ".extract", "import_module")):
                yield f"calls {name}"
            if keywords.get("allow_pickle", "False") != "False":
                yield "allow_pickle"
            if keywords.get("shell", "False") != "False":
                yield "shell"
            if name == "torch.load" and keywords.get("weights_only") != "True":
                yield "torch.load"
            if name == "yaml.load" and keywords.get("Loader") not in (
                "_Loader",
                "yaml.BaseLoader",
                "yaml.SafeLoader",
            ):
                yield "yaml.load"
            if name.endswith("lib.format.read_array") and keywords.get("allow_pickle") != "False":
                yield "read_array"


IMPORTED_BY_NAME = {
    # What a user names on the command line (evaluate_gan.py --features), or lets a folder name (--allow-code).
    "cxrdist/user_code.py": ["calls importlib.import_module"],
    # Its own modules, which a table in it names.
    "cxrdist/doctor/checkup.py": ["calls import_module"],
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CLONE)))
def test_no_source_file_can_run_what_it_reads(path: Path) -> None:
    allowed = IMPORTED_BY_NAME.get(str(path.relative_to(CLONE)), [])
    assert list(problems_of(path.read_text())) == allowed


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("eval('1')", "calls eval"),
        ("os.system('x')", "calls os.system"),
        ("np.load(f)", "calls np.load"),
        ("np.lib.format.read_array(f, allow_pickle=True)", "allow_pickle"),
        ("np.lib.format.read_array(f)", "read_array"),
        ("torch.load(f)", "torch.load"),
        ("torch.load(f, weights_only=False)", "torch.load"),
        ("subprocess.run('x', shell=True)", "shell"),
        ("yaml.load(f, Loader=yaml.Loader)", "yaml.load"),
        ("tar.extractall('.')", "calls tar.extractall"),
    ],
)
def test_the_search_finds_what_it_looks_for(line: str, problem: str) -> None:
    assert problem in list(problems_of(line))


def test_the_whole_package_is_searched() -> None:
    assert len(SOURCES) > 70 and all(re.search(r"^\"\"\"|^$", path.read_text()) for path in SOURCES)
