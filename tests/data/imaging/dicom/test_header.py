"""What leaves a DICOM file besides its pixels, and what never does."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

from cxrdist.data.imaging.dicom import DicomHeader, grey_of_dicom, notes, read_header, why_left_out
from cxrdist.data.imaging.dicom.header import NO_AGE, NO_SEX, NO_VIEW
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.errors import UserError
from tests.helpers.dicom_files import SECRETS, dicom_file, item

PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)


def header(syntax: str = "1.2.840.10008.1.2.1", **elements: Any) -> DicomHeader:
    return read_header(io.BytesIO(dicom_file(PIXELS, syntax, **elements)))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99",
                                    "1.2.840.10008.1.2.2"])  # fmt: skip
def test_all_that_is_read(syntax: str) -> None:
    read = header(
        syntax,
        PatientSex="F",
        PatientAge="058Y",
        ViewPosition="AP",
        BurnedInAnnotation="NO",
        PresentationIntentType="FOR PRESENTATION",
    )
    assert read == DicomHeader(
        patient_id="MRN4711", view="AP", sex="F", age=58, burned_in=False, for_presentation=True
    )


def test_what_a_file_does_not_say_is_none() -> None:
    read = header(PatientID=None)
    assert {getattr(read, f.name) for f in fields(read) if f.name != "unread"} == {None} and read.unread == ()
    assert header(PatientID="", PatientSex="", PatientAge="", ViewPosition="", BurnedInAnnotation="") == read


def test_what_is_not_understood_is_noted_and_other_sexes_are_understood() -> None:
    read = header(PatientSex="?", PatientAge="adult", ViewPosition="sideways")
    assert read.unread == (NO_VIEW, NO_SEX, NO_AGE) and set(read.unread) <= {*notes(read)}
    assert header(PatientSex="O", PatientAge="121Y", ViewPosition="PA").unread == (NO_AGE,)


@pytest.mark.parametrize(
    ("text", "years"),
    [("058Y", 58), ("013M", 1), ("011M", 0), ("051W", 0), ("104W", 2), ("365D", 1), ("364D", 0), ("090Y", 90),
     ("097Y", 90), ("120Y", 90), ("121Y", None), ("58", 58), ("62", 62), ("5 8", None), ("Y", None),
     ("0058Y", 58), ("58 Y", 58), ("58.0", 58), ("000D", 0), ("58.5", None)],
)  # fmt: skip
def test_ages(text: str, years: int | None) -> None:
    assert header(PatientAge=text).age == years


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("PA", "PA"),
        ("ap ", "AP"),
        ("LL", "LATERAL"),
        ("RL", "LATERAL"),
        ("LLD", "LLD"),
        ("DOE JANE", None),
        ("Postero-Anterior", "PA"),
        ("ANTERIOR_POSTERIOR", "AP"),
        ("P A", "PA"),
    ],
)
def test_views(text: str, view: str | None) -> None:
    assert header(ViewPosition=text).view == view


@pytest.mark.parametrize(
    ("code", "view"),
    [("272479007", "PA"), ("R-10214", "PA"), ("399348003", "AP"), ("R-10206", "AP"), ("399198007", "LATERAL"),
     ("R-10232", "LATERAL"), ("399162004", None)],
)  # fmt: skip
def test_views_as_codes(code: str, view: str | None) -> None:
    assert header(ViewCodeSequence=[item(CodeValue=code, CodeMeaning="Doe")]).view == view
    assert header(ViewCodeSequence=[item(CodeValue=code)], ViewPosition="LLD").view == "LLD"


@pytest.mark.parametrize(
    ("text", "sex"), [("M", "M"), ("f", "F"), ("Female", "F"), ("MALE ", "M"), ("O", None), ("Jane", None)]
)
def test_sexes(text: str, sex: str | None) -> None:
    assert header(PatientSex=text).sex == sex


def test_no_pixel_is_read(tmp_path: Path) -> None:
    data = dicom_file(PIXELS, PatientSex="M")
    start = data.index(b"\xe0\x7f\x10\x00")
    file = io.BytesIO(data)
    assert read_header(file).sex == "M"
    assert file.tell() <= start
    (tmp_path / "cut.dcm").write_bytes(data[:start])
    assert read_header(tmp_path / "cut.dcm").sex == "M"


def test_files_that_are_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no" * 100)
    for name, expected in (("a.dcm", "not a DICOM file"), ("b.dcm", "missing"), ("", "a folder, not a file")):
        with pytest.raises(UndecodableImage) as caught:
            read_header(tmp_path / name)
        assert (caught.value.reason, caught.value.file) == (expected, str(tmp_path / name))
    with pytest.raises(UndecodableImage, match=r"^not a DICOM file$"):
        read_header(io.BytesIO(b""))


@pytest.mark.parametrize(
    ("annotation", "policy", "reason"),
    [
        ("YES", "drop", "text burned into its pixels"),
        ("YES", "strict", "text burned into its pixels"),
        ("YES", "keep", None),
        ("NO", "drop", None),
        ("NO", "strict", None),
        ("NO", "keep", None),
        (None, "drop", None),
        (None, "strict", "not said to be free of burned-in text"),
        (None, "keep", None),
        ("PERHAPS", "strict", "not said to be free of burned-in text"),
    ],
)
def test_burned_in_policies(annotation: str | None, policy: str, reason: str | None) -> None:
    assert (
        why_left_out(header(**({"BurnedInAnnotation": annotation} if annotation else {})), policy) == reason
    )


def test_absence_is_counted_and_never_trusted() -> None:
    (absent,) = notes(header())
    assert "no BurnedInAnnotation" in absent and "cxrdist shards preview" in absent
    assert notes(header(BurnedInAnnotation="PERHAPS")) == (absent,)
    assert notes(header(BurnedInAnnotation="NO")) == ()
    (burned_in,) = notes(header(BurnedInAnnotation="YES"))
    assert burned_in != absent


def test_only_images_for_presentation() -> None:
    raw = header(PresentationIntentType="FOR PROCESSING", BurnedInAnnotation="NO")
    assert [why_left_out(raw, policy) for policy in ("drop", "strict", "keep")] == [
        "not for presentation"
    ] * 3
    assert why_left_out(header(PresentationIntentType="FOR PRESENTATION"), "drop") is None


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(UserError, match=r"unknown policy 'strickt' for burned-in text.*'strict'"):
        why_left_out(header(), "strickt")


def test_no_identifying_value_is_shown(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    # Values that pydicom warns of, and quotes: of the wrong form, too long, of an unknown character set.
    good = dicom_file(PIXELS, PatientAge="058Y", WindowCenter="1234", WindowWidth="34")
    texts = []
    for bad in (
        good.replace(b"058Y", b"Doe^"),
        good.replace(b"MRN4711", b"MRN\xff711"),
        good.replace(b"\x10\x00\x10\x10AS", b"\x10\x00\x10\x10XX"),
        good.replace(b"\x28\x00\x50\x10DS\x04\x001234", b"\x28\x00\x50\x10DS\x04\x00Doe^"),
        good.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00DS"),
        dicom_file(PIXELS, SpecificCharacterSet="ISO_IR 100").replace(b"ISO_IR 100", b"Doe^Jane^X"),
    ):
        assert bad != good
        for read in (lambda data: read_header(io.BytesIO(data)), grey_of_dicom):
            try:
                texts.append(repr(read(bad)))
            except UndecodableImage as error:
                texts.append(f"{error!r} {error.__cause__!r} {error.reason}")
    captured = capfd.readouterr()
    texts += [captured.out, captured.err, caplog.text, *(str(warning.message) for warning in recwarn)]
    assert not [text for text in texts if any(secret in text for secret in SECRETS)]
    assert captured.out == captured.err == caplog.text == "" and not recwarn
