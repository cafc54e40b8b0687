"""Fixtures of the data tests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars, classes in turn, 12 of each: colour and grey, wide and tall, PNG and JPEG; patients of two."""
    root = tmp_path / "tars"
    root.mkdir()
    rng = np.random.default_rng(2)
    number = 0
    for tar in ("a.tar", "b.tar"):
        with TarWriter(str(root / tar), encoder=False) as writer:
            for _ in range(12):
                shape = (40, 30, 3) if number % 3 else (30, 40)
                buffer = io.BytesIO()
                suffix = "jpg" if number % 2 else "png"
                image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
                image.save(buffer, "JPEG" if suffix == "jpg" else "PNG")
                told = {"patient_id": f"MRN{number // 4}", "note": "Jane Doe"}
                if number % 4 < 2:
                    told |= {"view": ("PA", "AP")[number % 2], "sex": "F", "age": str(90 + number)}
                writer.write(
                    {
                        "__key__": f"scan-{number}",
                        suffix: buffer.getvalue(),
                        "cls": str(number % 2).encode(),
                        "json": json.dumps(told).encode(),
                    }
                )
                number += 1
    return root
