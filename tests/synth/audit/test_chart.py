from __future__ import annotations

from cxrdist.synth.audit.chart import panel

REAL = [0.0, 0.25, 0.5, 0.75, 1.0]


def test_positions_are_shares_of_the_axis() -> None:
    found = panel("pixels", {"Normal": {"synthetic": REAL, "real": REAL}}, {"Normal": 0.5})
    (row,) = found.rows
    assert row.real == row.synthetic
    assert row.real[0] == round(100 * 0.03 / 1.06, 2) and row.real[4] == round(100 * 1.03 / 1.06, 2)
    assert row.threshold == row.real[2] == 50
    assert not found.is_cut


def test_synthetic_scores_far_away_do_not_squeeze_the_real_ones() -> None:
    far = [900.0, 950.0, 1000.0, 1000.0, 1000.0]
    found = panel("pixels", {"Normal": {"synthetic": far, "real": REAL}}, {})
    (row,) = found.rows
    assert row.synthetic == [100.0] * 5
    assert row.real[4] == round(100 * 1.03 / 2.06, 2)
    assert row.threshold is None
    assert found.is_cut
