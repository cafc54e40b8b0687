"""Reports on fabricated runs: every number is known beforehand."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from cxrdist.errors import UserError
from cxrdist.study.report.charts import radiographs
from cxrdist.study.report.charts.confusion import mean_confusion
from cxrdist.study.report.charts.curves import aligned
from cxrdist.study.report.page import paper, prose
from cxrdist.study.report.reading.search import collect
from cxrdist.study.report.terminal import print_results
from cxrdist.study.report.write import read_results, write_report

CLASSES = ["Cardiomegaly", "Normal", "Nodule|<b>"]
REAL, SYNTHETIC = "a" * 64, "b" * 64
N = 20
COUNTS = {
    "DS1": {"Cardiomegaly": (30, 0), "Normal": (90, 0), "Nodule|<b>": (40, 0)},
    "DS2": {"Cardiomegaly": (30, 0), "Normal": (30, 0), "Nodule|<b>": (30, 0)},
    "DS3": {"Cardiomegaly": (30, 150), "Normal": (90, 90), "Nodule|<b>": (40, 140)},
}
# Test images called right, of 20 per class.
HITS = {("DS1", 0): (10, 18, 12), ("DS1", 1): (12, 18, 12), ("DS2", 0): (8, 10, 9), ("DS3", 0): (17, 16, 12)}


def make_cls(root: Path, mix: str, seed: int, hits: tuple[int, ...] | None = None, **changes: Any) -> Path:
    hits = hits or HITS[mix, seed]
    folder = root / f"cls-{mix.lower()}-{seed}"
    folder.mkdir(parents=True)
    confusion = [
        [N - h if (t + 1) % 3 == c else h if t == c else 0 for c in range(3)] for t, h in enumerate(hits)
    ]
    metrics = {
        "accuracy": sum(hits) / (3 * N),
        "balanced_accuracy": sum(hits) / (3 * N),
        "macro_auroc": 0.5 + sum(hits) / (6 * N),
        "per_class": {name: h / N for name, h in zip(CLASSES, hits)},
        "confusion": confusion,
        "n": dict.fromkeys(CLASSES, N),
    }
    counts = {name: {"real": r, "synthetic": s} for name, (r, s) in COUNTS[mix].items()}
    summary = {
        "job": "cls",
        "status": "finished",
        "mix": mix,
        "seed": seed,
        "classes": CLASSES,
        "counts": counts,
        "shards": {"real": REAL, "synthetic": SYNTHETIC if mix == "DS3" else None},
        "data": {
            "importer": "nih14",
            "release": "NIH ChestX-ray14",
            "is_phantom": False,
            "image_size": 64,
            "label_rule": "one-target",
            "counts": {
                "train": {name: {"real": r} for name, (r, _) in COUNTS["DS1"].items()},
                "val": {name: {"real": N} for name in CLASSES},
                "test": {name: {"real": N} for name in CLASSES},
            },
        },
        "metrics": {"val": metrics, "test": metrics},
        "best_images": 1280,
        "epochs": 12.0,
        "images_seen": 1920,
        "steps": 15,
        "world_size": 2,
        "device": "cpu",
        "weights_sha256": f"{seed}" * 64,
        "order_sha256": "d" * 64,
        "seconds": 33.1,
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123456789abcdef",
        **changes,
    }
    config = {
        "mix": mix,
        "shards": "shards/none",
        "synthetic": None,
        "run": str(folder),
        "seed": seed,
        "batch": 128,
        "optimizer": {"lr": 0.001},
    }
    epoch = sum(r + s for r, s in COUNTS[mix].values())
    lines: list[dict[str, float]] = []
    for step in range(1, 16):
        line = {"images": 128 * step, "epoch": 128 * step / epoch, "train/loss": 1 / step}
        if step % 5 == 0:
            line["val/balanced_accuracy"] = 0.4 + 0.02 * step + 0.1 * seed
        lines.append(line)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def draw_grids(folder: Path, grey: int) -> None:
    """The sample grids of one class, the newest in this grey."""
    folder.mkdir(parents=True)
    for images, shade in ((6400, 0), (12800, grey)):
        Image.fromarray(np.full((48, 48), shade, np.uint8)).save(folder / f"images-{images:09d}.png")


def make_gan(root: Path, **changes: Any) -> Path:
    folder = root / "gan"
    models = {}
    for i, name in enumerate(CLASSES):
        slug = ("cardiomegaly", "normal", "nodule-b")[i]
        draw_grids(folder / slug / "samples" / slug, 60 * (i + 1))
        figures = {
            "classes": [name],
            "images_seen": 12800,
            "seconds": 41.0,
            "weights_sha256": f"{i}" * 64,
            "train_images": 30 + i,
        }
        models[name] = figures
        (folder / slug / "summary.json").write_text(json.dumps({"job": "gan-model", "status": "finished"}))
    summary = {
        "job": "gan",
        "status": "finished",
        "models": models,
        "shards": {"real": REAL},
        "world_size": 2,
        "device": "cpu",
        "seconds": 130.0,
        **changes,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump({"loss": "non-saturating", "seed": 0}))
    return folder


def make_demo(root: Path) -> Path:
    """A folder of four classifier runs, a GAN run, and things that are not runs."""
    for mix, seed in HITS:
        make_cls(root, mix, seed)
    make_gan(root)
    for name in (".hidden", "wandb"):
        make_cls(root / name, "DS1", 7, (0, 0, 0))
    (root / "logs").mkdir()
    return root


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return make_demo(tmp_path / "demo")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class FakeSet:
    """What the report needs of a ShardSet; the real one is tested where it lives."""

    def __init__(self, folder: str) -> None:
        if folder == "shards/absent":
            raise UserError("shards/absent: no such shard set")
        self.origin = "synthetic" if folder == "shards/none-synthetic" else "real"
        self.digest = SYNTHETIC if self.origin == "synthetic" else REAL

    def images(self, split: str, class_name: str, origin: str, count: int) -> np.ndarray:
        assert (split, origin) == ("train", self.origin)
        if class_name == "Normal" and origin == "synthetic":
            raise UserError("no synthetic images of Normal in its train split")
        return np.full((count, 8, 8), 200, np.uint8)


@pytest.fixture
def fake_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radiographs, "ShardSet", FakeSet)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on the demo runs, written once for the tests that only read it."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radiographs, "ShardSet", FakeSet)
        return write_report(read_results([make_demo(root / "demo")]), root / "out").parent


def test_search_finds_finished_runs_once_and_nothing_hidden(demo: Path) -> None:
    study = collect([demo, demo / "gan", demo / "cls-ds1-0"])
    assert [(run.arm, run.seed) for run in study.cls] == [("DS1", 0), ("DS1", 1), ("DS2", 0), ("DS3", 0)]
    assert [run.folder.name for run in study.gan] == ["gan"]
    grids = [path for model in study.gan[0].models for path in model.grids.values()]
    assert [path and path.name for path in grids] == ["images-000012800.png"] * 3
    assert study.skipped == ()


def test_a_folder_without_runs_is_named(demo: Path) -> None:
    with pytest.raises(UserError, match=r"demo/logs: contains no run \(no summary.json in it or below\)"):
        collect([demo, demo / "logs"])
    with pytest.raises(UserError, match=r"demo/typo: no such folder"):
        collect([demo / "typo"])


def test_unfinished_runs_are_left_out_with_a_note(demo: Path) -> None:
    edit(demo / "cls-ds2-0", status="running")
    (demo / "cls-ds1-1" / "summary.json").unlink()
    study = collect([demo])
    assert [(run.arm, run.seed) for run in study.cls] == [("DS1", 0), ("DS3", 0)]
    assert [re.sub(r"^\S*/", "", note) for note in study.skipped] == [
        "cls-ds1-1 is skipped: it has no summary.json, so it was interrupted or is still running",
        "cls-ds2-0 is skipped: its status is 'running', not 'finished'",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shards": {"real": "c" * 64}},
            r"cls-ds1-0 and .*cls-ds3-0 differ in the real set \(digest\): a{12} and c{12};",
        ),
        (
            {"classes": ["A", "B"]},
            r"cls-ds1-0 and .*cls-ds3-0 differ in the class names: Cardio.* and A, B;",
        ),
        ({"mix": "DS2"}, r"cls-ds2-0 and .*cls-ds3-0 are both DS2 with seed 0"),
    ],
)
def test_runs_that_may_not_be_compared_are_both_named(
    demo: Path, changes: dict[str, Any], message: str
) -> None:
    edit(demo / "cls-ds3-0", **changes)
    with pytest.raises(UserError, match=message):
        collect([demo])


def test_broken_files_are_named(demo: Path) -> None:
    (demo / "cls-ds1-0" / "metrics.jsonl").write_text('{"images": 1}\n{"ima')
    with pytest.raises(UserError, match=r"cls-ds1-0/metrics.jsonl:2: not JSON"):
        collect([demo])
    (demo / "cls-ds1-0" / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"cls-ds1-0/summary.json: not JSON"):
        collect([demo])
    (demo / "cls-ds1-0" / "summary.json").write_text('{"job": "cls", "status": "finished", "mix": "DS1"}')
    with pytest.raises(UserError, match=r"cls-ds1-0/summary.json: seed, classes, .* missing"):
        collect([demo])


def test_rows_hold_the_papers_figures_beside_ours(demo: Path) -> None:
    table = {row.name: row for row in paper.rows(collect([demo]))}
    assert list(table) == [*CLASSES, "Total", "Balanced accuracy", "Macro AUROC"]
    texts = {name: [(cell.paper_text, cell.ours_text) for cell in row.cells] for name, row in table.items()}
    # 10 and 12 of 20: 50 % and 60 %, so 55 with a sample standard deviation of 7.07.
    assert texts["Cardiomegaly"] == [("79.15", "55.0 ± 7.1"), ("71.73", "40.0"), ("95.31", "85.0")]
    assert texts["Nodule|<b>"] == [("–", "60.0 ± 0.0"), ("–", "45.0"), ("–", "60.0")]
    assert texts["Total"] == [
        ("70.87 ± 0.47", "68.3 ± 2.4"),
        ("58.90 ± 0.48", "45.0"),
        ("92.10 ± 0.41", "75.0"),
    ]
    assert texts["Macro AUROC"] == [("–", "0.842 ± 0.012"), ("–", "0.725"), ("–", "0.875")]
    best = {name: [cell.mix for cell in row.cells if cell.is_best] for name, row in table.items()}
    assert best["Normal"] == ["DS1"]
    assert best["Nodule|<b>"] == ["DS1", "DS3"]
    assert best["Total"] == ["DS3"]
    assert [row.n for row in table.values()] == [20, 20, 20, 60, 60, 60]


def test_the_papers_classes_average_what_the_paper_says() -> None:
    five = [figures for name, figures in paper.PAPER_TABLE_1.items() if name != "Total"]
    means = {mix: round(sum(f[mix] for f in five) / 5, 2) for mix in ("DS1", "DS2", "DS3")}
    assert means == {"DS1": 70.88, "DS2": 58.91, "DS3": 92.01}


def test_missing_figures_and_mixes_stay_empty(tmp_path: Path) -> None:
    folder = make_cls(tmp_path, "DS3", 0)
    test = json.loads((folder / "summary.json").read_text())["metrics"]["test"]
    test["macro_auroc"] = float("nan")
    test["per_class"]["Normal"] = None
    edit(folder, metrics={"val": test, "test": test})
    table = {row.name: row for row in paper.rows(collect([folder]))}
    assert [cell.ours_text for cell in table["Macro AUROC"].cells] == ["–", "–", "–"]
    assert [cell.ours_text for cell in table["Normal"].cells] == ["–", "–", "–"]
    assert [cell.is_best for cell in table["Total"].cells] == [False, False, False]


def test_budget_is_compared(demo: Path) -> None:
    text, equal = prose.budget(collect([demo]))
    assert equal and text.startswith("Equal budgets: every run saw 1,920 training images")
    assert "DS1 160, DS2 90, DS3 540 (380 synthetic)" in text
    edit(demo / "cls-ds3-0", images_seen=6480)
    text, equal = prose.budget(collect([demo]))
    assert not equal and "(DS1 1,920, DS2 1,920, DS3 6,480)" in text


def test_settings_are_shared_or_differ(demo: Path) -> None:
    path = demo / "cls-ds3-0" / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.002"))
    shared, differing = prose.settings(collect([demo]).cls)
    assert shared == [("batch", "128")]
    assert differing == [("optimizer.lr", "0.001 | 0.002")]


def test_curves_align_and_the_last_line_of_a_resumed_run_counts(demo: Path) -> None:
    with (demo / "cls-ds1-0" / "metrics.jsonl").open("a") as file:
        file.write('{"images": 1920, "epoch": 12.0, "val/balanced_accuracy": 0.3}\n')
    x, scores = aligned(collect([demo]).of("DS1"), "images")
    assert x.tolist() == [640, 1280, 1920]
    np.testing.assert_allclose(scores, [[0.5, 0.6, 0.3], [0.6, 0.7, 0.8]])


def test_confusion_is_normalised_by_row_and_averaged(demo: Path) -> None:
    confusion = mean_confusion(collect([demo]).of("DS1"))
    np.testing.assert_allclose(confusion, [[0.55, 0.45, 0], [0, 0.9, 0.1], [0.4, 0, 0.6]])


def test_page_is_whole_and_needs_nothing_from_outside(report: Path) -> None:
    html = (report / "index.html").read_text()
    assert sorted(p.name for p in (report / "figures").iterdir()) == [
        "confusion.png",
        "fig3.png",
        "fig4.png",
        "fig5.png",
        "forest-classes.png",
        "forest.png",
        "gan-cardiomegaly.png",
        "gan-nodule-b.png",
        "gan-normal.png",
    ]
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', html))
    assert not re.search(r"<script|<link|@import|url\((?!#)|<(image|use)[^>]*https?:", html)
    # 3 classes x 4 real, 2 x 4 synthetic (Normal has none), 3 sample grids.
    assert html.count("<img ") == 12 + 8 + 3
    assert html.count('<svg class="chart"') == 6  # of the forest plot also a narrow form
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', html)) <= set(ids)
    assert "Nodule|&lt;b&gt;" in html and "<b>" not in html
    assert "say nothing about any disease" not in html and "makes no clinical claim" in html
    assert "160 train, 60 validation and 60 test images of 3 classes, 64 × 64 px" in html
    assert "no synthetic images of Normal" in html


def test_markdown_tables_are_tables(report: Path) -> None:
    """A row of dashes below the head, and no empty line within."""
    blocks = re.split(r"\n\n+", (report / "report.md").read_text())
    tables = [block.splitlines() for block in blocks if "\n|" in f"\n{block}"]
    assert len(tables) > 5
    for head, dashes, *_ in tables:
        assert re.fullmatch(r"(\|:?-+:?)+\|", dashes), head
        assert dashes.count("|") == head.replace("\\|", "").count("|")


def test_markdown_holds_the_same_rows(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "| Cardiomegaly | 20 | 79.15 | 55.0 ± 7.1 | 71.73 | 40.0 | 95.31 | **85.0** |\n" in text
    assert "| Nodule\\|&lt;b> | 20 | – | **60.0 ± 0.0** | – | 45.0 | – | **60.0** |\n" in text
    for file in re.findall(r'(?:\]\(|src=")(figures/[^)"]+)', text):
        assert (report / file).is_file()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in table)
    assert "\n\n\n" not in text


def test_the_same_runs_give_the_same_bytes(report: Path, tmp_path: Path, fake_sets: None) -> None:
    page = write_report(read_results([report.parent / "demo"]), tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    files = sorted(p.relative_to(report) for p in report.rglob("*") if p.is_file())
    assert len(files) == 13
    assert all((report / file).read_bytes() == (page.parent / file).read_bytes() for file in files)


def test_phantoms_are_called_phantoms(tmp_path: Path) -> None:
    folder = make_cls(tmp_path, "DS1", 0)
    data = json.loads((folder / "summary.json").read_text())["data"]
    edit(folder, data={**data, "importer": "phantom", "release": "phantom 1", "is_phantom": True})
    title, text = prose.banner(collect([folder]))
    assert title == "Computed phantoms, not patients"
    assert text.startswith("phantom 1: 160 train") and text.endswith("make no clinical claim.")


def test_absent_and_changed_sets_are_said_not_shown(demo: Path, fake_sets: None) -> None:
    path = demo / "cls-ds3-0" / "config.yaml"
    text = path.read_text().replace("shards/none\n", "shards/absent\n")
    path.write_text(text.replace("synthetic: null", "synthetic: shards/none-synthetic"))
    edit(demo / "cls-ds3-0", shards={"real": REAL, "synthetic": "e" * 64})
    found = radiographs.pairs(collect([demo]))
    assert found.rows == ()
    assert found.notes == (
        "The real images are not shown here (shards/absent: no such shard set).",
        "The synthetic images are not shown here: shards/none-synthetic has changed since the run read it "
        "(digest bbbbbbbbbbbb, then eeeeeeeeeeee).",
    )


def test_gans_alone_make_a_report(tmp_path: Path) -> None:
    page = write_report(read_results([make_gan(tmp_path)]), tmp_path / "out")
    html = page.read_text()
    assert "No classifier was trained yet" in html and html.count("<img ") == 3
    assert "Table 1" not in html
    assert not re.search(r"\bnan\b", (tmp_path / "out" / "report.md").read_text())


def test_one_gan_of_all_classes_has_a_grid_per_class_and_one_row(tmp_path: Path) -> None:
    folder = tmp_path / "gan"
    for i, name in enumerate(("cardiomegaly", "normal", "nodule-b")):
        draw_grids(folder / "all-classes/samples" / name, 60 * (i + 1))
    (folder / "all-classes/summary.json").write_text(json.dumps({"job": "gan-model", "status": "finished"}))
    figures = {
        "classes": CLASSES,
        "images_seen": 64000,
        "seconds": 41.0,
        "weights_sha256": "7" * 64,
        "train_images": 160,
        "warnings": ["after 64,000 images the samples of Normal have been nearly alike"],
    }
    run = {"job": "gan", "status": "finished", "models": {"all classes": figures}, "shards": {"real": REAL}}
    (folder / "summary.json").write_text(json.dumps(run))
    study = collect([tmp_path])
    assert study.classes == tuple(CLASSES)
    (model,) = study.gan[0].models
    assert [path and path.relative_to(folder).as_posix() for path in model.grids.values()] == [
        f"all-classes/samples/{name}/images-000012800.png" for name in ("cardiomegaly", "normal", "nodule-b")
    ]
    page = write_report(read_results([tmp_path]), tmp_path / "out").read_text()
    assert page.count("<img ") == 3
    assert page.count("from 160 real train images (one GAN of 3 classes)") == 3
    text = (tmp_path / "out/report.md").read_text()
    assert text.count("| all classes | 64,000 | 160 | 41 s | `777777777777` |") == 1
    (notice,) = prose.notices(study)
    assert notice.endswith(
        "gan, all classes: after 64,000 images the samples of Normal have been nearly alike."
    )


def test_images_that_do_not_belong_together_are_noted(demo: Path) -> None:
    assert prose.notices(collect([demo])) == []
    edit(demo / "gan", shards={"real": "c" * 64})
    (other_set,) = prose.notices(collect([demo]))
    assert (
        "gan was trained on another real set (cccccccccccc) than the classifiers (aaaaaaaaaaaa)" in other_set
    )


def test_that_test_patients_may_have_been_seen_is_said_in_red(demo: Path, tmp_path: Path) -> None:
    title = "Test patients may have been seen"
    assert prose.leaks(collect([demo])) == []
    assert title not in write_report(read_results([demo]), tmp_path / "none").read_text()
    edit(demo / "cls-ds3-0", other_lineage_allowed=True)
    (lineage,) = prose.leaks(collect([demo]))
    assert "cls-ds3-0 was run with --allow-other-lineage" in lineage
    edit(demo / "cls-ds3-0", other_lineage_allowed=False, synthetic_training_data="unknown")
    (unknown,) = prose.leaks(collect([demo]))
    assert "what the generator of its synthetic images learned from is unknown" in unknown
    page = write_report(read_results([demo]), tmp_path / "out").read_text()
    assert f'<aside class="banner leak"><strong>{title}</strong><p>{unknown}</p></aside>' in page
    assert "--leak: #a3150d;" in page and "color: var(--leak)" in page
    assert f"> **{title}.** " in (tmp_path / "out/report.md").read_text()


def test_terminal_table_fits_80_columns(demo: Path) -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_results(read_results([demo]), console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)
    (ds1,) = (line for line in lines if line.startswith("DS1"))
    assert ds1.split() == ["DS1", "68.3", "55.0", "90.0", "60.0", "best", "real"]


def test_reports_need_no_torch() -> None:
    code = "import sys, cxrdist.study.report.write; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def fold_of(number: int, digest: str) -> dict[str, Any]:
    """What the summary of a run on one of three folds says of its set."""
    counts = {split: {name: {"real": N} for name in CLASSES} for split in ("train", "val", "test")}
    data = {
        "importer": "nih14",
        "release": "r",
        "is_phantom": False,
        "image_size": 64,
        "label_rule": "strict",
    }
    return {
        "data": {**data, "counts": counts, "folds": 3, "fold": number},
        "shards": {"real": digest * 64, "synthetic": None},
    }


def test_folds_of_one_study_are_reported_together(tmp_path: Path) -> None:
    for number, digest in enumerate("abc"):
        make_cls(tmp_path / f"fold{number}", "DS1", 0, **fold_of(number, digest))
        make_cls(tmp_path / f"fold{number}", "DS2", 0, **fold_of(number, digest))
    study = collect([tmp_path])
    assert [(run.arm, run.fold) for run in study.cls] == [
        (mix, n) for mix in ("DS1", "DS2") for n in range(3)
    ]
    assert paper.test_counts(study) == dict.fromkeys(CLASSES, 3 * N)
    write_report(read_results([tmp_path]), tmp_path / "report")
    make_cls(tmp_path / "again", "DS1", 0, **fold_of(1, "b"))
    with pytest.raises(UserError, match="are both DS1 with seed 0 on fold 1; exclude one of them"):
        collect([tmp_path])


def test_two_sets_of_one_fold_are_not_compared(tmp_path: Path) -> None:
    make_cls(tmp_path / "one", "DS1", 0, **fold_of(1, "a"))
    make_cls(tmp_path / "two", "DS1", 1, **fold_of(1, "b"))
    with pytest.raises(UserError, match=r"differ in the real set \(digest\)"):
        collect([tmp_path])
