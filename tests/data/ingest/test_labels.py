from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.data.importers.common.base import Record
from cxrdist.data.ingest.labels import RULES, assign
from cxrdist.data.shards.schema import CLASSES, canonical_order
from cxrdist.errors import UserError

TARGETS = {
    "Cardiomegaly": "Cardiomegaly",
    "Effusion": "Pleural Effusion",
    "Edema": "Pulmonary Edema",
    "Pneumothorax": "Pneumothorax",
}
NO_FINDING = "No Finding"


def records_of(*findings: str) -> list[Record]:
    return [
        Record(source_id=str(i), patient_id=str(i), findings=tuple(text.split("|")))
        for i, text in enumerate(findings)
    ]


SOURCE = records_of(
    "No Finding",
    "Edema",
    "Edema|Pneumonia",
    "Edema|Effusion",
    "Pneumonia",
    "Effusion",
    "Effusion|No Finding",
)


def test_strict() -> None:
    found = assign(SOURCE, "strict", TARGETS, NO_FINDING, None)
    assert found.label == ["Normal", "Pulmonary Edema", None, None, None, "Pleural Effusion", None]
    assert found.left_out == {
        "no target finding": 1,
        "other findings beside the target": 2,
        "several targets": 1,
    }
    assert found.classes == ("Normal", "Pleural Effusion", "Pulmonary Edema")


def test_one_target() -> None:
    found = assign(SOURCE, "one-target", TARGETS, NO_FINDING, None)
    edema, effusion = "Pulmonary Edema", "Pleural Effusion"
    assert found.label == ["Normal", edema, edema, None, None, effusion, effusion]
    assert found.left_out == {"no target finding": 1, "several targets": 1}


def test_rarest_takes_the_target_with_fewest_images_of_the_whole_source() -> None:
    records = records_of("Effusion|Edema", "Effusion", "Pneumonia", "No Finding")
    found = assign(records, "rarest", TARGETS, NO_FINDING, None)
    assert found.label == ["Pulmonary Edema", "Pleural Effusion", None, "Normal"]
    records = records_of("Effusion|Edema", "Edema", "Edema|Pneumonia", "Effusion|Pneumonia")
    found = assign(records, "rarest", TARGETS, NO_FINDING, None)
    assert found.label == ["Pleural Effusion", "Pulmonary Edema", "Pulmonary Edema", "Pleural Effusion"]


def test_rarest_breaks_ties_by_class_order() -> None:
    records = records_of("Pneumothorax|Cardiomegaly", "Edema|Pneumothorax|Effusion", "Edema|Effusion")
    found = assign(records, "rarest", TARGETS, NO_FINDING, None)
    assert found.label == ["Cardiomegaly", "Pleural Effusion", "Pleural Effusion"]


def test_findings_named_twice_or_with_two_names_are_one_target() -> None:
    synonyms = {**TARGETS, "Oedema": "Pulmonary Edema"}
    found = assign(records_of("Edema|Edema", "Edema|Oedema"), "strict", synonyms, NO_FINDING, None)
    assert found.label == ["Pulmonary Edema", "Pulmonary Edema"]


def test_classes_pick_some_but_the_rule_sees_all_targets() -> None:
    found = assign(SOURCE, "one-target", TARGETS, NO_FINDING, ["Pulmonary Edema", "Normal"])
    assert found.label == ["Normal", "Pulmonary Edema", "Pulmonary Edema", None, None, None, None]
    assert found.left_out == {"class not asked for": 2, "no target finding": 1, "several targets": 1}
    assert found.classes == ("Normal", "Pulmonary Edema")


def test_a_label_of_the_source_wins_over_any_rule() -> None:
    records = [
        Record(source_id="a", patient_id="a", label="Tuberculosis", findings=("Edema",)),
        Record(source_id="b", patient_id="b", label="Normal"),
        Record(source_id="c", patient_id="c", label="Atelectasis"),
    ]
    for rule in RULES:
        found = assign(records, rule, {}, None, None)
        assert found.label == ["Tuberculosis", "Normal", "Atelectasis"]
        assert found.left_out == {}
        assert found.classes == ("Normal", "Atelectasis", "Tuberculosis")


def test_canonical_order_is_the_papers_then_sorted() -> None:
    assert canonical_order(["b", "Pneumothorax", "a", "Normal", "b"]) == ("Normal", "Pneumothorax", "a", "b")
    assert canonical_order(reversed(CLASSES)) == CLASSES


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match="unknown label rule 'one_target'; did you mean 'one-target'"):
        assign(SOURCE, "one_target", TARGETS, NO_FINDING, None)
    with pytest.raises(UserError, match="unknown class 'Pulmonary Oedema'; did you mean 'Pulmonary Edema'"):
        assign(SOURCE, "strict", TARGETS, NO_FINDING, ["Normal", "Pulmonary Oedema"])
    with pytest.raises(UserError, match="Cardiomegaly has no image under the label rule 'strict'"):
        assign(SOURCE, "strict", TARGETS, NO_FINDING, ["Normal", "Cardiomegaly"])
    with pytest.raises(UserError, match=r"no image has a class .*\(1 x no target finding\)"):
        assign(records_of("Pneumonia"), "strict", TARGETS, NO_FINDING, None)
    with pytest.raises(UserError, match="the source has no images"):
        assign([], "strict", TARGETS, NO_FINDING, None)
    with pytest.raises(UserError, match="no class is selected; known: Cardiomegaly, Normal"):
        assign(SOURCE, "strict", TARGETS, NO_FINDING, [])


findings = st.lists(st.sampled_from([*TARGETS, NO_FINDING, "Pneumonia", "Mass"]), max_size=4)


@settings(deadline=None, max_examples=80)
@given(st.lists(findings, min_size=1, max_size=30), st.sampled_from(sorted(RULES)))
def test_every_record_is_labelled_or_counted_once(lists: list[list[str]], rule: str) -> None:
    records = [Record(source_id="x", patient_id="x", findings=tuple(names)) for names in lists]
    records.append(Record(source_id="y", patient_id="y", findings=(NO_FINDING,)))
    found = assign(records, rule, TARGETS, NO_FINDING, None)
    assert len(found.label) == len(records)
    assert found.label.count(None) == sum(found.left_out.values())
    assert found.classes == canonical_order(label for label in found.label if label)
    only_normal = assign(records, rule, TARGETS, NO_FINDING, ["Normal"])
    assert only_normal.label == [label if label == "Normal" else None for label in found.label]
    assert only_normal.label.count(None) == sum(only_normal.left_out.values())
