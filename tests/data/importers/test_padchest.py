from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.deidentify import load_salt
from cxrdist.data.imaging.radiograph import grey_of
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.intensity import INTENSITIES, eight_bit, tone_of
from cxrdist.data.importers.padchest import INVERTED, PadChest
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.ingest.labels import assign
from cxrdist.errors import UserError
from tests.helpers.releases.padchest import TABLE, USUAL, padchest, write


def one(root: Path, cells: dict[str, str], **options: Any) -> Record:
    (record,) = padchest(root, cells, **options).records()
    return record


def label_of(record: Record, rule: str) -> str | None:
    sure = [(str(i), finding) for i, finding in enumerate([PadChest.normal, *PadChest.targets])]
    others = [Record(source_id=name, findings=(finding,)) for name, finding in sure]
    return assign([record, *others], rule, PadChest.targets, PadChest.normal, None).label[0]


@pytest.mark.parametrize("name", [TABLE, f"{TABLE}.gz", "PADCHEST_chest_x_ray_images_labels_160K.csv"])
def test_records(tmp_path: Path, name: str) -> None:
    write(
        tmp_path,
        {"Labels": "['cardiomegaly', ' pleural effusion', 'unchanged', 'cardiomegaly', '']"},
        name=name,
    )
    importer = PadChest(root=str(tmp_path))
    assert list(importer.records()) == [
        Record(
            source_id=USUAL["ImageID"],
            patient_id=USUAL["PatientID"],
            findings=("cardiomegaly", "pleural effusion"),
            uncounted=("unchanged",),
            view="PA",
            sex="F",
            age=84,
            file=f"0/{USUAL['ImageID']}",
        )
    ]
    assert pickle.loads(pickle.dumps(importer)) == importer


def test_images_unpacked_either_way(tmp_path: Path) -> None:
    (tmp_path / "flat.png").touch()
    importer = padchest(
        tmp_path,
        {"ImageID": "flat.png"},
        {"ImageID": "in.png", "ImageDir": "12"},
        {"ImageID": "x.png", "ImageDir": ""},
    )
    assert [r.file for r in importer.records()] == ["flat.png", "12/in.png", "x.png"]


@pytest.mark.parametrize(
    ("labels", "strict", "one_target"),
    [
        ("['normal']", "Normal", "Normal"),
        ("['normal', 'unchanged']", "Normal", "Normal"),
        ("['cardiomegaly']", "Cardiomegaly", "Cardiomegaly"),
        ("['pulmonary edema', 'pacemaker']", None, "Pulmonary Edema"),
        ("['loculated pleural effusion']", "Pleural Effusion", "Pleural Effusion"),
        ("['loculated fissural effusion', 'pleural effusion']", "Pleural Effusion", "Pleural Effusion"),
        ("['loculated pleural effusion', 'cardiomegaly']", None, None),
        ("['pneumothorax', 'exclude']", "Pneumothorax", "Pneumothorax"),
        # A substring is no label.
        ("['pericardial effusion']", None, None),
        ("['pneumothorax sequelae', 'no cardiomegaly']", None, None),
        ("['hydropneumothorax']", None, None),
    ],
)
def test_whole_labels(tmp_path: Path, labels: str, strict: str | None, one_target: str | None) -> None:
    record = one(tmp_path, {"Labels": labels})
    assert record.left_out is None
    assert (label_of(record, "strict"), label_of(record, "one-target")) == (strict, one_target)


def test_a_hydropneumothorax_is_both(tmp_path: Path) -> None:
    record = one(tmp_path, {"Labels": "['hydropneumothorax', 'pneumothorax']"})
    assert record.findings == ("hydropneumothorax", "pneumothorax", "pleural effusion")
    assert label_of(record, "rarest") == "Pneumothorax"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"Labels": "['exclude']"}, "nothing but exclude"),
        ({"Labels": "['unchanged', 'exclude']"}, "nothing but unchanged and exclude"),
        ({"Labels": "['suboptimal study', 'cardiomegaly']"}, "suboptimal study"),
        ({"Pediatric": "PED"}, "pediatric"),
        ({"Pediatric": ""}, None),
        ({"Projection": "L"}, "projection L"),
        ({"Projection": "AP_horizontal"}, "projection AP_horizontal"),
        ({"Projection": "COSTAL"}, "projection COSTAL"),
        ({"Projection": "EXCLUDE"}, "projection unknown"),
        ({"Projection": ""}, "projection unknown"),
        ({"Projection": "AP"}, None),
    ],
)
def test_what_is_left_out(tmp_path: Path, cells: dict[str, str], reason: str | None) -> None:
    record = one(tmp_path, cells)
    assert (record.left_out, record.no_class) == (reason, None)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("", "no labels"),
        ("nan", "no labels"),
        ("[]", "no labels"),
        ("['']", "no labels"),
        ("['unchanged']", "nothing but unchanged"),
    ],
)
def test_what_has_no_class(tmp_path: Path, labels: str, reason: str) -> None:
    record = one(tmp_path, {"Labels": labels})
    assert (record.left_out, record.no_class) == (None, reason)


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        ({"views": ("AP_horizontal",)}, {"Projection": "AP_horizontal"}),
        ({"keep_suboptimal": True}, {"Labels": "['suboptimal study', 'cardiomegaly']"}),
        ({"keep_pediatric": True}, {"Pediatric": "PED"}),
    ],
)
def test_what_options_keep(tmp_path: Path, options: dict[str, Any], cells: dict[str, str]) -> None:
    assert one(tmp_path, cells, **options).left_out is None


@pytest.mark.parametrize(
    ("study", "birth", "sex", "expected"),
    [
        ("20140915", "1930.0", "F", (84, "F")),
        ("20140915", "1920", "M", (90, "M")),
        ("20140915.0", "2014.0", "O", (0, None)),
        ("20140915", "", "None", (None, None)),
        ("", "1930.0", "", (None, None)),
        ("20140915", "2016.0", "F", (None, "F")),
        ("20140915", "1830.0", "F", (None, "F")),
    ],
)
def test_age_and_sex(
    tmp_path: Path, study: str, birth: str, sex: str, expected: tuple[int | None, str | None]
) -> None:
    record = one(tmp_path, {"StudyDate_DICOM": study, "PatientBirth": birth, "PatientSex_DICOM": sex})
    assert (record.age, record.sex) == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"Labels": "cardiomegaly"}, r"line 3: Labels is 'cardiomegaly', not a list such as \['normal'\]"),
        ({"Labels": "['a', 1]"}, "line 3: Labels is"),
        ({"Labels": "__import__('os').system('true')"}, "line 3: Labels is"),
        ({"Labels": "{'a': 'b'}"}, "line 3: Labels is"),
        ({"Labels": "[" * 5000}, "line 3: Labels is"),
        ({"ImageID": "../a.png"}, r"line 3: the ImageID '\.\./a\.png' is not a plain file name"),
        ({"ImageDir": "../0"}, r"line 3: the ImageDir '\.\./0' is not a plain file name"),
        ({"PatientID": ""}, "line 3: no PatientID"),
    ],
)
def test_rows_that_are_not_right(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        one(tmp_path, cells)


def test_tables_that_are_not_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither PADCHEST_chest_x_ray_images_labels_160K_01"):
        list(PadChest(root=str(tmp_path)).records())
    with pytest.raises(UserError, match=f"line 5: {USUAL['ImageID']} is listed before"):
        list(padchest(tmp_path, {}, {"PatientID": "another"}).records())
    (tmp_path / TABLE).write_text("ImageID,Labels\na.png,['normal']\n")
    with pytest.raises(UserError, match="lacks the columns PatientID, Projection"):
        list(PadChest(root=str(tmp_path)).records())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ("PA", "LL")}, "views: 'LL' is not a choice; did you mean 'L'"),
        ({"views": ()}, "views: names none; choose among PA, AP, AP_horizontal, L, COSTAL"),
        ({"intensity": "percentile"}, "intensity: 'percentile' is not a choice; did you mean 'percentiles'"),
    ],
)
def test_options_that_are_not_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PadChest(root="/x", **options)


def test_16_bit_grey_between_percentiles() -> None:
    # 1,000 pixels: the 5th lowest and the 995th are black and white.
    pixels = np.full((10, 100), 2000, np.uint16)
    pixels.flat[:10] = [0, 1, 2, 3, 1000, 1000, 1000, 1000, 1000, 1000]
    pixels.flat[-10:] = [3000, 3000, 3000, 3000, 3000, 3000, 4000, 4000, 4000, 65535]
    grey = eight_bit(pixels, "percentiles", is_inverted=False)
    assert grey.dtype == np.uint8
    assert [int(v) for v in grey.flat[[0, 4, 500, -10, -1]]] == [0, 0, 128, 255, 255]
    inverted = eight_bit(pixels, "percentiles", is_inverted=True)
    np.testing.assert_array_equal(inverted, 255 - grey)
    full = eight_bit(pixels, "full", is_inverted=False)
    assert [int(v) for v in full.flat[[0, 500, -4, -1]]] == [0, 8, 16, 255]


def test_one_grey_and_8_bit_grey() -> None:
    assert (
        eight_bit(np.full((4, 4), 700, np.uint16), "percentiles", is_inverted=False).tolist() == [[0] * 4] * 4
    )
    eight = np.tile(np.array([[3, 200]], np.uint8), (2, 1))
    buffer = io.BytesIO()
    Image.fromarray(eight).save(buffer, "PNG")
    for intensity in INTENSITIES:
        kept = grey_of(buffer.getvalue(), 2, tone=tone_of(intensity))
        turned = grey_of(buffer.getvalue(), 2, tone=tone_of(intensity, is_inverted=True))
        assert kept.tolist() == [[3, 200]] * 2 and turned.tolist() == [[252, 55]] * 2


@pytest.mark.parametrize(
    ("interpretation", "options", "is_inverted"),
    [
        ("MONOCHROME1", {}, True),
        ("MONOCHROME1", {"invert_monochrome1": False}, False),
        ("MONOCHROME2", {}, False),
    ],
)
def test_a_12_bit_image_is_not_dark(
    tmp_path: Path, interpretation: str, options: dict[str, Any], is_inverted: bool
) -> None:
    ramp = np.linspace(0, 4095, 32 * 16).astype(np.uint16).reshape(32, 16)
    (tmp_path / "0").mkdir()
    Image.fromarray(ramp).save(tmp_path / "0" / USUAL["ImageID"])
    record = one(tmp_path, {"PhotometricInterpretation_DICOM": interpretation}, **options)
    assert record.notes == ((INVERTED,) if is_inverted else ())
    pixels = PadChest(root=str(tmp_path), **options).pixels(record, 32, "pad")
    film = pixels[:, 8:24]
    assert (film.min(), film.max()) == (0, 255) and abs(int(np.median(film)) - 128) <= 2
    assert bool(film[0, 0] > film[-1, -1]) == is_inverted
    # The bars beside the film are black whether it is inverted or not.
    assert pixels[:, :8].max() == 0


@pytest.mark.usefixtures("inline")
def test_a_set_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    root = tmp_path / "root"
    rows = []
    for i in range(6):
        name, folder = f"2168401113669{i}_00-102-06{i}.png", str(i % 2)
        rows.append(
            {
                "ImageID": name,
                "ImageDir": folder,
                "PatientID": f"83986048869429{i}",
                "Labels": "['normal']" if i % 2 else "['pneumothorax', 'chest drain tube']",
                "PhotometricInterpretation_DICOM": "MONOCHROME1" if i == 3 else "MONOCHROME2",
            }
        )
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 4096, (32, 40), np.uint16)).save(root / folder / name)
    importer = padchest(root, *rows, {"ImageID": "x.png", "Projection": "L"})
    manifest = ingest(importer, IngestOptions(out=str(tmp_path / "set"), size=32, workers=1))
    assert manifest.classes == ["Normal", "Pneumothorax"]
    assert sum(entry.samples for entry in manifest.strata) == 6
    provenance = manifest.provenance
    assert (provenance.left_out, provenance.notes) == ({"projection L": 1}, {INVERTED: 1})
    assert provenance.undecodable == 0
    assert provenance.source_options == {
        "views": ["PA", "AP"],
        "keep_suboptimal": False,
        "keep_pediatric": False,
        "intensity": "percentiles",
        "invert_monochrome1": True,
    }
    everything = b"".join(p.name.encode() + p.read_bytes() for p in (tmp_path / "set").iterdir())
    assert load_salt(None).patient("839860488694291").encode() in everything
    assert b'"chest drain tube"' in everything
    for trace in (b"2168401113669", b"83986048869429", b"20140915", b"sin hallazg", str(tmp_path).encode()):
        assert trace not in everything
