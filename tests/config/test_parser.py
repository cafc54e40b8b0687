"""Every command's configuration: precedence, spelling, types, files, and one line for every mistake."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from cxrdist.config import yaml_files
from cxrdist.config.parser import parse, reported_where_written, to_dict, to_yaml
from cxrdist.config.yaml_files import find, find_named, load_yaml
from cxrdist.errors import OptionError, UserError


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where metrics go."""

    mode: Literal["online", "offline", "disabled"] = "online"
    """Whether runs are sent."""
    entity: str | None = None
    every: int = 1
    id: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise OptionError("every", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Arm:
    mix: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Base:
    seeds: tuple[int, ...] = (0,)
    """One run for each seed."""


@dataclass(frozen=True, kw_only=True)
class Train(Base):
    """Train one generator per
    class.

    None of this paragraph is in the help.
    """

    shards: str
    """The shard set: a folder."""
    classes: tuple[str, ...] = ("all",)
    """Which classes,
    in this order."""
    label_rule: Literal["one-target", "any-target"] = "any-target"
    """From findings to a class; 50% of users never touch it."""
    lr: float = 1e-3
    images: float | int | str | None = None
    resume: bool = True
    fast: bool = False
    betas: tuple[float, float] = (0.5, 0.999)
    tracking: Tracking = Tracking(mode="offline")
    arms: tuple[Arm, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise OptionError("lr", f"must be above 0, not {self.lr}")
        if self.label_rule == "one-target" and self.limit == 7:
            raise OptionError("label_rule", "one-target does not go with a limit of 7")
        if self.limit == 13:
            raise UserError("not that number")


@dataclass(frozen=True, kw_only=True)
class Report:
    runs: tuple[str, ...] = ()
    out: str = "report"


@dataclass(frozen=True, kw_only=True)
class Info:
    set: str
    depth: int = 0


def train(*words: str, default_config: Path | None = None) -> Train:
    return parse(
        Train, words, prog="cxrdist train", example="cxrdist train --shards s", default_config=default_config
    )


def mistake(*words: str, default_config: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        train(*words, default_config=default_config)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, beside a clone that has a few configs."""
    for name, text in (
        ("clone/configs/gan/small.yaml", "shards: from-clone\nlr: 0.5\n"),
        ("clone/configs/mix/DS1.yaml", "fill: 1\n"),
        ("clone/configs/mix/DS3.yaml", "fill: 2\n"),
        ("clone/launch/train_gan.py", ""),
        ("here/configs/mix/mine.yaml", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(yaml_files, "_CLONE", tmp_path / "clone")
    return tmp_path / "here"


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return name


# ---- precedence


def test_defaults_then_default_config_then_files_then_options(folder: Path) -> None:
    write(folder, "base.yaml", "shards: base\nlr: 0.1\nlimit: 1\nseeds: [1]\ntracking: {every: 5}")
    write(folder, "a.yaml", "lr: 0.2\nlimit: 2\nseeds: [2]")
    write(folder, "b.yaml", "lr: 0.3\nlimit: 3\ntracking:\n  entity: lab")
    words = ["--lr", "0.4", "--config", "a.yaml", "--config=b.yaml"]
    config = train(*words, default_config=Path("base.yaml"))
    assert (config.shards, config.lr, config.limit, config.seeds) == ("base", 0.4, 3, (2,))
    assert config.tracking == Tracking(mode="offline", every=5, entity="lab")
    assert config.label_rule == "any-target"


def test_the_last_of_two_files_wins_and_an_option_may_occur_once(folder: Path) -> None:
    write(folder, "a.yaml", "shards: a")
    write(folder, "b.yaml", "shards: b")
    assert train("--config", "b.yaml", "--config", "a.yaml").shards == "a"
    for words, option in (
        ("--shards x --shards y", "--shards"),
        ("--classes A --shards x --classes=B", "--classes"),
        ("--fast --shards x --no-fast", "--fast/--no-fast"),
    ):
        remedy = "a list is written with commas, as in A,B" if option == "--classes" else "remove one"
        assert mistake(*words.split()) == f"{option}: given twice; {remedy}"


def test_config_is_found_in_the_clone(folder: Path) -> None:
    assert train("--config", "configs/gan/small.yaml").lr == 0.5
    assert train(default_config=Path("configs/gan/small.yaml")).shards == "from-clone"


def test_argv_defaults_to_the_process_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cxrdist", "--shards", "from-argv"])
    assert parse(Train, prog="p", example="e").shards == "from-argv"


# ---- spelling and types


def test_dashes_underscores_and_equals_are_the_same() -> None:
    for word in ("--label-rule", "--label_rule"):
        assert train("--shards", "s", word, "one-target").label_rule == "one-target"
    assert train("--shards=s", "--label_rule=one-target").label_rule == "one-target"


def test_a_yaml_key_may_be_spelt_with_dashes_or_dots(folder: Path) -> None:
    file = write(folder, "a.yaml", "shards: s\nlabel-rule: one-target\ntracking.every: 3")
    config = train("--config", file)
    assert (config.label_rule, config.tracking) == ("one-target", Tracking(mode="offline", every=3))


@pytest.mark.parametrize(
    ("word", "classes"),
    [
        ("A,B", ("A", "B")),
        ("[A,B]", ("A", "B")),
        ("Pleural Effusion, Normal", ("Pleural Effusion", "Normal")),
        ('["A, with comma", B]', ("A, with comma", "B")),
        ("all", ("all",)),
        ("no,1,null", ("no", "1", "null")),
        ("", ()),
        ("[]", ()),
    ],
)
def test_a_list_of_names(word: str, classes: tuple[str, ...]) -> None:
    assert train("--shards", "s", "--classes", word).classes == classes


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("[No, 'Pleural Effusion']", ("No", "Pleural Effusion")),
        ("all", ("all",)),
        ("Pleural Effusion,Normal", ("Pleural Effusion", "Normal")),
        ("\n- A\n- B", ("A", "B")),
    ],
)
def test_a_list_of_names_in_a_yaml(folder: Path, text: str, classes: tuple[str, ...]) -> None:
    assert train("--config", write(folder, "a.yaml", f"shards: s\nclasses: {text}")).classes == classes


def test_lists_of_numbers(folder: Path) -> None:
    assert train("--shards", "s", "--seeds", "0,1,-2").seeds == (0, 1, -2)
    assert train("--shards", "s", "--seeds=7").seeds == (7,)
    assert train("--shards", "s", "--betas", "0,0.9").betas == (0.0, 0.9)
    assert train("--config", write(folder, "a.yaml", "shards: s\nseeds: 3")).seeds == (3,)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("64", 64),
        ("64.0", 64.0),
        ("-0.5", -0.5),
        ("1e-4", 1e-4),
        ("2x", "2x"),
        ("null", None),
        ("a: [", "a: ["),
    ],
)
def test_a_union_takes_the_narrowest_type(word: str, value: Any) -> None:
    images = train("--shards", "s", "--images", word).images
    assert (images, type(images)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("64.0", 64.0),
        ("1e-4", 1e-4),
        ("'64'", "64"),
        ("'null'", "null"),
        ("1:30", "1:30"),
        ("", None),
    ],
)
def test_quoted_text_in_a_yaml_stays_text(folder: Path, text: str, value: Any) -> None:
    images = train("--config", write(folder, "a.yaml", f"shards: s\nimages: {text}")).images
    assert (images, type(images)) == (value, type(value))


@pytest.mark.parametrize(
    ("words", "resume", "fast"),
    [
        ([], True, False),
        (["--fast"], True, True),
        (["--fast", "--no-resume"], False, True),
        (["--no-resume", "--no-fast"], False, False),
        (["--no_resume"], False, False),
    ],
)
def test_bools(words: list[str], resume: bool, fast: bool) -> None:
    config = train("--shards", "s", *words)
    assert (config.resume, config.fast) == (resume, fast)


def test_text_stays_text() -> None:
    for word in ("64", "null", "true", "~/x y", "s3://bucket/a: b", "-", "[x"):
        assert train("--shards", word).shards == word


def test_mappings_and_lists_of_dataclasses(folder: Path) -> None:
    text = "shards: s\nweights: {A: 2, B c: 1e-1}\narms:\n- mix: DS1\n- mix: DS3\n  weight: 2"
    config = train("--config", write(folder, "a.yaml", text))
    assert config.weights == {"A": 2.0, "B c": 0.1}
    assert config.arms == (Arm(mix="DS1"), Arm(mix="DS3", weight=2.0))


def test_positional_arguments() -> None:
    def report(*words: str) -> Report:
        return parse(Report, words, prog="cxrdist report", example="e", positional=["runs"])

    assert report("runs/a", "runs/b", "--out", "o") == Report(runs=("runs/a", "runs/b"), out="o")
    assert report("--out", "o", "--", "--odd") == Report(runs=("--odd",), out="o")
    assert report() == Report()
    info = parse(Info, ["shards/x", "2"], prog="p", example="e", positional=["set", "depth"])
    assert info == Info(set="shards/x", depth=2)
    with pytest.raises(UserError, match=r"^DEPTH: expected a valid integer, got 'two'$"):
        parse(Info, ["x", "two"], prog="p", example="e", positional=["set", "depth"])
    with pytest.raises(UserError, match=r"^SET: must be given; see cxrdist info --help$"):
        parse(Info, [], prog="cxrdist info", example="e", positional=["set"])
    with pytest.raises(UserError, match=r"^p: unexpected argument 'b'$"):
        parse(Info, ["a", "b"], prog="p", example="e", positional=["set"])


# ---- help


def test_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        parse(
            Train,
            ["--nonsense", "--help"],
            prog="cxrdist train",
            example="cxrdist train shards/x \\\n    --lr 1",
            positional=["shards", "classes"],
        )
    assert left.value.code == 0
    lines = capsys.readouterr().out.rstrip().split("\n")
    assert lines[:3] == [
        "usage: cxrdist train SHARDS [CLASSES] [--option VALUE ...]",
        "",
        "Train one generator per class.",
    ]
    assert lines[-3:] == ["Example:", "  cxrdist train shards/x \\", "    --lr 1"]
    text = " ".join(" ".join(lines).split())
    assert "None of this paragraph" not in text
    for words in (
        "--shards STR The shard set: a folder. (required)",
        "--classes STR,... Which classes, in this order. (default: all)",
        "--config FILE ",
        "--print-config ",
        "--seeds INT,... One run for each seed. (default: 0)",
        "--label-rule {one-target,any-target} From findings to a class; 50% of users never touch it. (default: "
        "any-target)",
        "--lr FLOAT (default: 0.001)",
        "--resume, --no-resume (default: true)",
        "--betas FLOAT,... (default: 0.5,0.999)",
        "tracking: Where metrics go. --tracking.mode {online,offline,disabled} Whether runs are sent. "
        "(default: offline)",
        "--tracking.entity STR|null (default: null)",
    ):
        assert words in text


def test_print_config_prints_what_it_then_loads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        train("--print_config", "--shards", "s", "--tracking.mode", "disabled", "--lr", "1e-5")
    assert left.value.code == 0
    write(folder, "printed.yaml", capsys.readouterr().out)
    assert train("--config", "printed.yaml") == Train(shards="s", tracking=Tracking(mode="disabled"), lr=1e-5)


def test_print_config_shows_what_is_still_to_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Info, ["--print-config"], prog="p", example="e")
    assert capsys.readouterr().out == "set: null\ndepth: 0\n"


# ---- mistakes, one line each


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shard s", "--shard: no such option; did you mean '--shards'?"),
        ("--shard=s", "--shard: no such option; did you mean '--shards'?"),
        ("--label_rul x", "--label-rul: no such option; did you mean '--label-rule'?"),
        ("--tracking.mod x", "--tracking.mod: no such option; did you mean '--tracking.mode'?"),
        ("--id 3", "--id: no such option; did you mean '--tracking.id'?"),
        ("--mode disabled", "--mode: no such option; did you mean '--tracking.mode'?"),
        ("--no-resum", "--no-resum: no such option; did you mean '--no-resume'?"),
        ("--confg a.yaml", "--confg: no such option; did you mean '--config'?"),
        ("--lr abc", "--lr: expected a valid number, got 'abc'"),
        ("--lr null", "--lr: expected a valid number, got 'null'"),
        ("--lr", "--lr: expected one argument"),
        ("--lr --fast", "--lr: expected one argument"),
        ("--limit 1.5", "--limit: expected a valid integer, got '1.5'"),
        ("--fast=maybe", "--fast: takes no value"),
        ("--fast=false", "--fast: takes no value; use --no-fast"),
        ("--no_resume=False", "--no-resume: takes no value; use --resume"),
        ("--print-config=no", "--print-config: takes no value"),
        ("--fast true", "cxrdist train: unexpected argument 'true'"),
        (
            "--classes A B --fast",
            "cxrdist train: unexpected argument 'B'; a list is written with commas, as in A,B",
        ),
        ("--classes Normal,", "--classes: empty item in 'Normal,'"),
        ("--classes [Normal,]", "--classes: empty item in '[Normal,]'"),
        ("--seeds 0,b", "--seeds[1]: expected a valid integer, got 'b'"),
        ("--seeds 0,,1", "--seeds: empty item in '0,,1'"),
        ("--betas 1", "--betas[1]: must be given; see cxrdist train --help"),
        ("--betas 1,2,3", "--betas: Tuple should have at most 2 items after validation, not 3"),
        ("--classes [A", "--classes: expected a list, got '[A'"),
        ("--weights 3", "--weights: expected a mapping, got '3'"),
        ("--weights {A", "--weights: expected a mapping, got '{A'"),
        ("--label-rule one-targt", "--label-rule: 'one-targt' is not a choice; did you mean 'one-target'?"),
        ("--label-rule 7", "--label-rule: '7' is not a choice; known: one-target, any-target"),
        ("--tracking.mode ofline", "--tracking.mode: 'ofline' is not a choice; did you mean 'offline'?"),
        ("--arms [DS1]", "--arms[0]: expected a mapping, got 'DS1'"),
        ("--lr -1", "--lr: must be above 0, not -1.0"),
        ("--tracking.every 0", "--tracking.every: must be at least 1"),
        (
            "--label-rule one-target --limit=7",
            "--label-rule: one-target does not go with a limit of 7",
        ),
        ("--tracking x", "--tracking: no such option; did you mean '--tracking.id'?"),
        ("--le 1", "--le: no such option; did you mean '--lr'?"),
        ("--limit 13", "not that number"),
        ("extra", "cxrdist train: unexpected argument 'extra'"),
    ],
)
def test_a_mistake_on_the_command_line(words: str, message: str) -> None:
    assert mistake("--shards", "s", *words.split()) == message


def test_a_group_with_nothing_in_it_keeps_its_defaults(folder: Path) -> None:
    file = write(folder, "a.yaml", "shards: s\ntracking:\n  # mode: disabled\n")
    assert train("--config", file).tracking == Tracking(mode="offline")


def test_a_missing_option() -> None:
    assert mistake() == "--shards: must be given; see cxrdist train --help"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shard: s", "a.yaml: no such option 'shard'; did you mean 'shards'?"),
        ("tracking: {mod: x}", "a.yaml: no such option 'tracking.mod'; did you mean 'tracking.mode'?"),
        ("tracking: disabled", "a.yaml: tracking: expected a mapping, got 'disabled'"),
        (
            "tracking: {mode: ofline}",
            "a.yaml: tracking.mode: 'ofline' is not a choice; did you mean 'offline'?",
        ),
        ("lr: fast", "a.yaml: lr: expected a valid number, got 'fast'"),
        ("lr:", "a.yaml: lr: expected a valid number, got None"),
        ("classes: [1]", "a.yaml: classes[0]: expected a valid string, got 1 (write it in quotes)"),
        ("classes: {A: 1}", "a.yaml: classes: expected a list, got {'A': 1}"),
        ("weights: {A: x}", "a.yaml: weights.A: expected a valid number, got 'x'"),
        ("arms: [{mixx: DS1}]", "a.yaml: arms[0].mixx: no such option"),
        ("arms: [{weight: 1}]", "a.yaml: arms[0].mix: must be given; see cxrdist train --help"),
        ("lr: -1", "a.yaml: lr: must be above 0, not -1.0"),
        ("tracking: {every: 0}", "a.yaml: tracking.every: must be at least 1"),
        ("lr: 1\nlr: 2", "a.yaml, line 2: the key 'lr' occurs twice"),
        ("lr: 1\nseeds: [1", "a.yaml, line 2: expected ',' or ']', but got '<stream end>'"),
        ("- a", "a.yaml: expected a mapping (key: value), got list"),
    ],
)
def test_a_mistake_in_a_yaml(folder: Path, text: str, message: str) -> None:
    file = write(folder, "a.yaml", text)
    assert mistake("--shards", "s", "--config", file) == message
    assert mistake("--shards", "s", default_config=Path(file)) == message


def test_a_mistake_in_a_file_of_the_clone_names_that_file(folder: Path) -> None:
    file = folder.parent / "clone" / write(folder.parent / "clone", "configs/gan/bad.yaml", "lrr: 1")
    assert mistake("--config", "configs/gan/bad.yaml") == f"{file}: no such option 'lrr'; did you mean 'lr'?"


def test_a_missing_config_file(folder: Path) -> None:
    assert mistake("--config", "no.yaml") == (
        f"no.yaml: no such file; looked for {folder}/no.yaml and {folder.parent}/clone/no.yaml"
    )


# ---- out again


def test_to_dict_is_plain_nested_and_in_order() -> None:
    config = Train(shards="s", classes=("A",), arms=(Arm(mix="DS1"),), weights={"A": 1.0})
    assert to_dict(config) == {
        "seeds": [0],
        "shards": "s",
        "classes": ["A"],
        "label_rule": "any-target",
        "lr": 1e-3,
        "images": None,
        "resume": True,
        "fast": False,
        "betas": [0.5, 0.999],
        "tracking": {"mode": "offline", "entity": None, "every": 1, "id": 0},
        "arms": [{"mix": "DS1", "weight": 1.0}],
        "weights": {"A": 1.0},
        "limit": None,
    }
    assert list(to_dict(config))[:3] == ["seeds", "shards", "classes"]


@pytest.mark.parametrize(
    "images", [None, 64, 64.0, 1e-7, float("inf"), "64", "1e-4", "null", "no", "a: b # c", "é"]
)
def test_to_yaml_loads_to_an_equal_object(folder: Path, images: Any) -> None:
    config = Train(
        shards="1e5",
        classes=("Pleural Effusion", "No", "1", "a,b"),
        images=images,
        arms=(Arm(mix="x"),),
        weights={"1": 0.5},
        tracking=Tracking(entity="null"),
    )
    again = train("--config", write(folder, "resolved.yaml", to_yaml(config)))
    assert again == config
    assert type(again.images) is type(images)


# ---- files


def test_find(folder: Path) -> None:
    clone = folder.parent / "clone"
    assert find("launch/train_gan.py") == clone / "launch/train_gan.py"
    (folder / "launch").mkdir()
    (folder / "launch/train_gan.py").touch()
    assert find("launch/train_gan.py") == folder / "launch/train_gan.py"
    assert find(str(clone / "configs/mix/DS1.yaml")) == clone / "configs/mix/DS1.yaml"
    with pytest.raises(UserError) as caught:
        find("configs/x.yaml")
    assert str(caught.value) == (
        f"configs/x.yaml: no such file; looked for {folder}/configs/x.yaml and {clone}/configs/x.yaml"
    )


def test_find_outside_a_clone_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_files, "_CLONE", folder.parent / "site-packages")
    with pytest.raises(
        UserError, match=r"; cxrdist was not installed from a clone: run this in the folder of a clone$"
    ):
        find("configs/gan/small.yaml")


def test_the_clone_is_the_parent_of_the_package() -> None:
    assert (yaml_files._CLONE / "cxrdist" / "config" / "yaml_files.py").samefile(yaml_files.__file__)


def test_find_named(folder: Path) -> None:
    clone = folder.parent / "clone"
    assert find_named("mix", "DS3") == clone / "configs/mix/DS3.yaml"
    assert find_named("mix", "ds3") == clone / "configs/mix/DS3.yaml"
    assert find_named("mix", "mine") == folder / "configs/mix/mine.yaml"
    assert find_named("mix", "configs/mix/DS1.yaml") == clone / "configs/mix/DS1.yaml"
    (folder / "configs/mix/DS1.yaml").touch()
    assert find_named("mix", "DS1") == folder / "configs/mix/DS1.yaml"
    (folder / "configs/mix/ds3.yaml").touch()
    assert find_named("mix", "DS3") == folder / "configs/mix/ds3.yaml"
    with pytest.raises(
        UserError, match=r"^configs/mix: no mix is named 'DS4'; did you mean '(DS1|DS3|ds3)'\?$"
    ):
        find_named("mix", "DS4")
    with pytest.raises(
        UserError, match=r"^configs/study: no study is named 'x'; looked in .*/clone/configs/study"
    ):
        find_named("study", "x")


def test_load_yaml(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("base: &b {lr: 1e-4, on: no}\nclass: {<<: *b, lr: 2}\n1: 2024-01-01\nhex: 012\n")
    assert load_yaml(file) == {
        "base": {"lr": 1e-4, "on": "no"},
        "class": {"lr": 2, "on": "no"},
        1: "2024-01-01",
        "hex": "012",
    }
    file.write_text("a: {b: &b {x: 1}, c: &c {<<: *b, x: 2}}\nd: {<<: *c}\n")
    assert load_yaml(file)["d"] == {"x": 2}
    file.write_text("# nothing but a comment\n")
    assert load_yaml(file) == {}
    for content, message in (
        (b"a: b: c", f"{file}, line 1: mapping values are not allowed here"),
        (b"\xff\xfe\xfa", f"{file}: not UTF-8 text"),
        (b"? [a]\n: 1", f"{file}, line 1: found unhashable key"),
        (b"word", f"{file}: expected a mapping (key: value), got str"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_yaml(file)
        assert str(caught.value) == message
    with pytest.raises(UserError, match=r"none\.yaml: No such file or directory$"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"Is a directory$"):
        load_yaml(tmp_path)


def test_importing_config_is_cheap() -> None:
    program = (
        "import sys, cxrdist.config.parser; print(sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


@pytest.mark.parametrize(
    ("option", "place"),
    [
        ("lr", "--lr"),
        ("label_rule", "{file}: label_rule"),
        ("tracking.mode", "{file}: tracking.mode"),
        ("shards", "SHARDS"),
        ("limit", "--limit"),
    ],
)
def test_an_error_that_is_found_later_names_where_the_value_was_written(
    tmp_path: Path, option: str, place: str
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("lr: 1\nlabel_rule: one-target\ntracking:\n  mode: online\n")
    argv = ["set", "--config", str(file), "--lr", "2"]
    with pytest.raises(UserError) as caught, reported_where_written():
        parse(Train, argv, prog="train", example="train set", positional=("shards",))
        raise OptionError(option, "does not fit the set")
    assert str(caught.value) == f"{place.format(file=file)}: does not fit the set"
    # The places are forgotten after the block.
    with (
        pytest.raises(UserError, match=r"^--label-rule: of no parsed configuration$"),
        reported_where_written(),
    ):
        raise OptionError("label_rule", "of no parsed configuration")


def test_the_run_has_a_spelling_that_torchrun_does_not_take_for_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch.distributed.run import get_args_parser

    from cxrdist.gan.config import GANConfig

    for spelling in ("--run", "--run-folder", "--run_folder"):
        assert parse(GANConfig, [spelling, "runs/x"], prog="train_gan.py", example="").run == "runs/x"
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(["launch/train_gan.py", "--run", "runs/x"])
    assert "ambiguous option: --run" in capsys.readouterr().err
    found = get_args_parser().parse_args(["launch/train_gan.py", "--run-folder", "runs/x"])
    assert found.training_script_args == ["--run-folder", "runs/x"]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Copy a file."""

    from_: str
    """Where it is."""


def test_an_option_whose_name_is_a_word_of_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its field has an underscore at the end, and the command line has none."""
    copy = lambda *words: parse(Copy, words, prog="copy", example="copy --from a")  # noqa: E731
    assert copy("--from", "a") == Copy(from_="a")
    with pytest.raises(SystemExit):
        copy("--help")
    assert "--from STR" in capsys.readouterr().out
    with pytest.raises(UserError, match="--from: must be given"):
        copy()
    (tmp_path / "copy.yaml").write_text("from_: b\n")
    assert copy("--config", str(tmp_path / "copy.yaml")) == Copy(from_="b")
