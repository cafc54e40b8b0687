"""The flat keys of a job's figures."""

from __future__ import annotations

from cxrdist.run.tracking.figures import evaluation_figures, flat_summary


def test_a_classifiers_summary_has_flat_keys_and_intervals() -> None:
    summary = {
        "job": "cls",
        "status": "finished",
        "images_seen": 960,
        "classes": ["Normal", "Odd"],
        "data": {"image_size": 64},
        "metrics": {
            "test": {
                "accuracy": 0.5,
                "per_class": {"Normal": 0.75, "Odd": None},
                "confusion": [[3, 1], [2, 0]],
                "intervals": {"accuracy": [0.4, 0.6], "per_class": {"Normal": [0.5, 1.0], "Odd": None}},
            }
        },
    }
    assert flat_summary(summary) == {
        "images_seen": 960,
        "test/accuracy": 0.5,
        "test/accuracy_low": 0.4,
        "test/accuracy_high": 0.6,
        "test/per_class/Normal": 0.75,
        "test/per_class/Normal_low": 0.5,
        "test/per_class/Normal_high": 1.0,
    }


def test_an_evaluation_has_flat_keys_under_the_classes_names() -> None:
    shares = {
        "agreement": {"value": 0.8, "interval": [0.7, 0.9], "real": {"value": 0.95, "interval": [0.9, 1.0]}},
        "near_copies": {"value": None, "interval": None, "null": None},
        "diversity": {"pairwise": 0.9, "nearest": None},
    }
    spaces = {"classifier": {"kid": {"value": 0.01, "floor": 0.001, "interval": [0.0, 0.02], "n_real": 9}}}
    result = {
        "models": {"all-classes": {"classes": {"Pleural Effusion": {"spaces": spaces, **shares}}}},
        "overall": {"classifier": {"fid": {"value": 3.0, "floor": None}}},
        "mean_over_classes": shares,
    }
    assert evaluation_figures(result) == {
        "Pleural Effusion/kid/classifier": 0.01,
        "Pleural Effusion/kid/classifier_floor": 0.001,
        "Pleural Effusion/kid/classifier_low": 0.0,
        "Pleural Effusion/kid/classifier_high": 0.02,
        "overall/fid/classifier": 3.0,
        "Pleural Effusion/agreement": 0.8,
        "Pleural Effusion/agreement_low": 0.7,
        "Pleural Effusion/agreement_high": 0.9,
        "Pleural Effusion/agreement_real": 0.95,
        "Pleural Effusion/diversity/pairwise": 0.9,
        "mean/agreement": 0.8,
        "mean/agreement_low": 0.7,
        "mean/agreement_high": 0.9,
        "mean/agreement_real": 0.95,
        "mean/diversity/pairwise": 0.9,
    }
