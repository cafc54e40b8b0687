from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrdist.data.imaging import near_duplicates
from cxrdist.data.imaging.near_duplicates import (
    HASH_BYTES,
    groups_of,
    near_groups,
    near_pairs,
    perceptual_hash,
)
from cxrdist.phantom import render

Change = Callable[[np.ndarray], np.ndarray]


def table_of(hashes: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def pairs_of(hashes: list[bytes]) -> list[tuple[int, int]]:
    return near_pairs(table_of(hashes))


def resized(film: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(film).resize((size, size), Image.Resampling.BILINEAR))


def jpeg(film: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def gamma(film: np.ndarray, exponent: float) -> np.ndarray:
    return grey(255 * (film / 255) ** exponent)


def cropped(film: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    size = len(film)
    return resized(np.ascontiguousarray(film[top : size - bottom, left : size - right]), size)


def padded(film: np.ndarray, *sides: int) -> np.ndarray:
    left, top, right, bottom = sides
    return resized(np.pad(film, ((top, bottom), (left, right))), len(film))


def noisy(film: np.ndarray) -> np.ndarray:
    return grey(film + np.random.default_rng(0).normal(0, 5, film.shape))


CHANGES: dict[str, Change] = {  # of a film of 256 px
    "none": lambda film: film,
    "jpeg 75": jpeg,
    "128 px": lambda film: resized(film, 128),
    "64 px": lambda film: resized(film, 64),
    "1024 px": lambda film: resized(film, 1024),
    "128 px and back": lambda film: resized(resized(film, 128), 256),
    "64 px and back": lambda film: resized(resized(film, 64), 256),
    "gain 0.9": lambda film: grey(film * 0.9),
    "gain 1.1": lambda film: grey(film * 1.1),
    "brighter": lambda film: grey(film + 10.0),
    "darker": lambda film: grey(film - 10.0),
    "gamma 0.8": lambda film: gamma(film, 0.8),
    "gamma 1.25": lambda film: gamma(film, 1.25),
    "noise": noisy,
    "1 % off each side": lambda film: cropped(film, 3, 3, 3, 3),
    "2 % off two sides": lambda film: cropped(film, 5, 5, 0, 0),
    "1 % added on each side": lambda film: padded(film, 3, 3, 3, 3),
    "2 % added on two sides": lambda film: padded(film, 0, 0, 5, 5),
    "several": lambda film: jpeg(gamma(cropped(noisy(film), 3, 0, 3, 3), 0.85)),
}


@pytest.fixture(scope="module")
def phantoms() -> list[np.ndarray]:
    """Films of four patients, 256 px."""
    labels = ("Normal", "Pneumothorax", "Cardiomegaly", "Pulmonary Edema")
    return [
        render(seed=3, patient=patient, study=0, label=label, size=256).pixels
        for patient, label in enumerate(labels)
    ]


def test_a_hash_is_the_thumbnail_of_the_middle_and_a_digest() -> None:
    film = np.zeros((40, 80), np.uint8)
    film[4:36, 8:72] = np.arange(64, dtype=np.uint8)  # the middle 80 % of each side
    film[:, 72:] = 255
    got = perceptual_hash(film)
    assert len(got) == HASH_BYTES == 1032
    thumbnail = np.frombuffer(got[:1024], np.uint8).reshape(32, 32)
    assert (thumbnail == thumbnail[0]).all()
    # Pixel i is columns 2i and 2i + 1 of the middle, and, fading, the next on either side: their mean, rounded.
    assert all(v in (2 * i, 2 * i + 1) for i, v in enumerate(thumbnail[0].tolist()[:-1]))
    assert got[1024:] == xxhash.xxh3_64_digest(b"40x80/" + film.tobytes())


def test_how_the_pixels_lie_in_memory_does_not_matter(phantoms: list[np.ndarray]) -> None:
    film = phantoms[0]
    assert perceptual_hash(np.asfortranarray(film)) == perceptual_hash(film)
    assert perceptual_hash(film[::2, ::2]) == perceptual_hash(film[::2, ::2].copy())
    assert perceptual_hash(film.T) != perceptual_hash(film)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_film_is_near_the_film_alone(name: str, phantoms: list[np.ndarray]) -> None:
    changed = [perceptual_hash(CHANGES[name](film)) for film in phantoms]
    assert pairs_of([*map(perceptual_hash, phantoms), *changed]) == [(0, 4), (1, 5), (2, 6), (3, 7)]


def test_a_film_of_16_px_is_near_itself(phantoms: list[np.ndarray]) -> None:
    tiny = [resized(film, 16) for film in phantoms]
    hashes = [perceptual_hash(film) for film in [*tiny, *(resized(film, 17) for film in tiny)]]
    assert pairs_of(hashes) == [(0, 4), (1, 5), (2, 6), (3, 7)]


def test_a_mirrored_or_inverted_film_is_another(phantoms: list[np.ndarray]) -> None:
    film = phantoms[0]
    others = [film[:, ::-1], film[::-1], 255 - film]
    assert pairs_of([perceptual_hash(each) for each in (film, *others)]) == []


def test_blank_films_are_near_exact_copies_only() -> None:
    rng = np.random.default_rng(0)
    black = np.zeros((64, 64), np.uint8)
    with_marker = black.copy()
    with_marker[1:4, 58:62] = 255  # in the margin: its thumbnail is as black as the others'
    haze, other_haze = rng.integers(0, 4, (2, 64, 64), np.uint8)
    films = [
        black,
        black + np.uint8(255),
        with_marker,
        haze,
        black,
        other_haze,
        haze,
        np.zeros((32, 128), np.uint8),
    ]
    assert pairs_of([perceptual_hash(film) for film in films]) == [(0, 4), (3, 6)]


def test_fine_stripes_alone_are_blank() -> None:
    """Nothing is left of them in the frequencies that are compared: no division by zero, no match."""
    stripes = np.tile(np.array([0, 255], np.uint8), (1024, 512))
    hashes = [perceptual_hash(film) for film in (stripes, stripes.T, stripes)]
    assert pairs_of(hashes) == [(0, 2)]


def test_pictures_without_structure_in_one_direction_are_compared() -> None:
    x = np.arange(256)
    wave = grey(np.tile(120 + 60 * np.sin(x / 20) + 40 * np.cos(x / 9), (256, 1)))
    other = grey(np.tile(120 + 60 * np.cos(x / 13) + 40 * np.sin(x / 31), (256, 1)))
    films = [wave, np.roll(wave, 2, 1), wave.T, np.roll(wave.T, 2, 0), other]
    assert pairs_of([perceptual_hash(film) for film in films]) == [(0, 1), (2, 3)]


def test_none_and_one() -> None:
    assert pairs_of([]) == []
    assert pairs_of([perceptual_hash(np.eye(32, dtype=np.uint8))]) == []


def some_hashes() -> list[bytes]:
    """Smooth random pictures and changed ones: some pairs are near, some nearly, most are not; and two blanks."""
    rng = np.random.default_rng(5)
    films = []
    for _ in range(6):
        film = resized(rng.integers(0, 256, (7, 7), np.uint8), 64)
        films += [film, film, *(grey(film + rng.normal(0, s, film.shape)) for s in (5, 40, 120))]
        films += [np.roll(film, shift, 1) for shift in (1, 2, 4)]
    films += [np.full((64, 64), 7, np.uint8)] * 2
    return [perceptual_hash(films[i]) for i in rng.permutation(len(films))]


HASHES = some_hashes()
PAIRS = [pair for pair in combinations(range(len(HASHES)), 2) if pairs_of([HASHES[i] for i in pair])]


def test_the_blocks_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 30 < len(PAIRS) < 250  # of 1,225, each compared on its own
    assert pairs_of(HASHES) == PAIRS
    for rows, columns, at_once in ((1, 1, 1), (7, 3, 2), (3, 7, 100), (50, 50, 4), (49, 64, 5)):
        monkeypatch.setattr(near_duplicates, "_ROWS", rows)
        monkeypatch.setattr(near_duplicates, "_COLUMNS", columns)
        monkeypatch.setattr(near_duplicates, "_PAIRS_AT_ONCE", at_once)
        assert pairs_of(HASHES) == PAIRS


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(len(HASHES))))
def test_the_order_of_the_films_does_not_matter(order: list[int]) -> None:
    got = pairs_of([HASHES[i] for i in order])
    assert sorted(tuple(sorted((order[i], order[j]))) for i, j in got) == PAIRS
    assert got == sorted(got) and all(i < j for i, j in got)


def test_groups_by_hand() -> None:
    assert groups_of(0, []) == []
    assert groups_of(3, []) == [0, 1, 2]
    assert groups_of(7, [(1, 4), (5, 6), (2, 4)]) == [0, 1, 1, 3, 1, 5, 5]
    assert groups_of(4, [(2, 3), (1, 2), (0, 1)]) == [0, 0, 0, 0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_what_chains_of_pairs_connect(pairs: list[tuple[int, int]]) -> None:
    lowest = list(range(20))
    for _ in range(20):  # the lowest index spreads along every pair until nothing changes
        for i, j in pairs:
            lowest[i] = lowest[j] = min(lowest[i], lowest[j])
    assert groups_of(20, pairs) == lowest
    assert groups_of(20, [(j, i) for i, j in reversed(pairs)]) == lowest


def test_groups_are_those_of_all_pairs_copies_included() -> None:
    hashes = HASHES + HASHES[::-1]
    seen: list[int] = []
    assert near_groups(table_of(hashes), seen.append) == groups_of(len(hashes), pairs_of(hashes))
    assert seen == [0]


def test_a_table_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "hashes").write_bytes(b"".join(HASHES))
    mapped = np.memmap(tmp_path / "hashes", np.uint8, "r", shape=(len(HASHES), HASH_BYTES))
    assert near_pairs(mapped) == PAIRS


def real_films(name: str) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Films, patients and file names."""
    root = os.environ.get("CXRDIST_REAL_DATA")
    if not root:
        pytest.skip("CXRDIST_REAL_DATA names no folder of real radiographs")
    folder = Path(root) / name
    with (folder / "Data_Entry_2017_v2020.csv").open() as table:
        rows = list(csv.DictReader(table))
    names = [row["Image Index"] for row in rows]
    films = [np.asarray(Image.open(folder / "images" / each).convert("L")) for each in names]
    return films, [row["Patient ID"] for row in rows], names


@pytest.mark.slow
def test_real_films_of_different_patients_are_never_near() -> None:
    films, patients, names = real_films("nih256")
    pairs = pairs_of([perceptual_hash(film) for film in films])
    assert [(names[i], names[j]) for i, j in pairs if patients[i] != patients[j]] == []
    # The collection holds the second film twice; the first two were taken one after the other.
    assert [(names[i], names[j]) for i, j in pairs] == [
        ("00001543_003.png", "00001543_004.png"),
        ("00002658_001.png", "00002658_002.png"),
    ]
    assert (films[595] == films[596]).all()


@pytest.mark.slow
def test_real_films_at_another_size_are_near() -> None:
    large, patients, names = real_films("nih256")
    small, small_patients, small_names = real_films("nih64")
    pairs = pairs_of([perceptual_hash(film) for film in (*large, *small)])
    patients, names = patients + small_patients, names + small_names
    assert all(patients[i] == patients[j] for i, j in pairs)
    assert (
        sum(names[i] == names[j] for i, j in pairs) == len(set(small_names) & set(names[: len(large)])) == 136
    )


@pytest.mark.slow
def test_changed_real_films_are_near() -> None:
    films = real_films("nih256")[0][::25]
    hashes = [perceptual_hash(film) for film in films]
    for name, change in CHANGES.items():
        changed = [perceptual_hash(change(film)) for film in films]
        assert pairs_of([*hashes, *changed]) == [(i, len(films) + i) for i in range(len(films))], name
