"""Parallel projection along the patient's depth: closed-form chord lengths (cm) on a grid of pixels.

Frame: x to the image's right (the patient's left), z down, y from front to back, all in cm; x = 0 is the
midline, z = 0 about the height of the carina. The beam runs along y: a solid's image is its chord along y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray
_REACHES = np.array([2, 3, 4, 6, 8, 11, 15, 20, 28, 40, 56, 80, 112, 160, 224, 2**20])


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A square grid of pixels over the patient. ``lean`` shears x with z, for a patient who leans sideways."""

    size: int
    half_width_cm: float
    centre_x_cm: float
    centre_z_cm: float
    lean: float

    @cached_property
    def pixel_cm(self) -> float:
        return 2.0 * self.half_width_cm / self.size

    @cached_property
    def z(self) -> Array:
        """[H] float32 cm."""
        offsets = (np.arange(self.size) + 0.5) * self.pixel_cm - self.half_width_cm
        return (self.centre_z_cm + offsets).astype(np.float32)

    @cached_property
    def x(self) -> Array:
        """[H, W] float32 cm."""
        offsets = (np.arange(self.size) + 0.5) * self.pixel_cm - self.half_width_cm
        upright = (self.centre_x_cm + offsets).astype(np.float32)
        return upright[None, :] - np.float32(self.lean) * self.z[:, None]

    def pixel_of(self, x: Any, z: Any) -> tuple[Any, Any]:
        """Column and row, as fractions of pixels, of points in cm (numbers or arrays)."""
        column = (x + self.lean * z - self.centre_x_cm + self.half_width_cm) / self.pixel_cm - 0.5
        row = (z - self.centre_z_cm + self.half_width_cm) / self.pixel_cm - 0.5
        return column, row

    def zeros(self) -> Array:
        return np.zeros((self.size, self.size), np.float32)

    def window(self, x: float, z: float, reach_x: float, reach_z: float) -> tuple[slice, slice]:
        """The rows and columns that a solid around (x, z) can touch."""
        column, row = self.pixel_of(x, z)
        tilt = abs(self.lean) * reach_z
        columns = (reach_x + tilt) / self.pixel_cm + 1
        rows = reach_z / self.pixel_cm + 1
        first_row, first_column = max(0, int(row - rows)), max(0, int(column - columns))
        return (
            slice(first_row, max(first_row, min(self.size, int(row + rows) + 2))),
            slice(first_column, max(first_column, min(self.size, int(column + columns) + 2))),
        )


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """Semi-axes ``ax`` and ``az`` in the image plane, rotated by ``angle`` (radians), and ``ay`` in depth."""

    x: float
    z: float
    ax: float
    az: float
    ay: float
    angle: float = 0.0

    @property
    def reach_x(self) -> float:
        """Half the width of the projection."""
        return float(np.hypot(self.ax * np.cos(self.angle), self.az * np.sin(self.angle)))

    @property
    def reach_z(self) -> float:
        return float(np.hypot(self.ax * np.sin(self.angle), self.az * np.cos(self.angle)))

    def moved(self, *, x: float = 0.0, z: float = 0.0) -> Ellipsoid:
        return Ellipsoid(x=self.x + x, z=self.z + z, ax=self.ax, az=self.az, ay=self.ay, angle=self.angle)

    def chord_squared(self, grid: Grid) -> tuple[tuple[slice, slice], Array]:
        """Squared chords (2 ay)^2 (1 - u^2 - v^2), or 0 outside, and the window they cover."""
        at = grid.window(self.x, self.z, self.reach_x, self.reach_z)
        dx = grid.x[at] - np.float32(self.x)
        dz = (grid.z[at[0]] - np.float32(self.z))[:, None]
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = (dx * cos + dz * sin) / np.float32(self.ax)
        v = (dz * cos - dx * sin) / np.float32(self.az)
        inside = np.maximum(1.0 - u * u - v * v, 0.0)
        return at, inside * np.float32(4.0 * self.ay**2)


def union(grid: Grid, solids: list[Ellipsoid]) -> Array:
    """Root of the summed squared chords: for solids that overlap, without a seam between them."""
    total = grid.zeros()
    for solid in solids:
        at, squared = solid.chord_squared(grid)
        total[at] += squared
    return np.sqrt(total, out=total)


def heap(grid: Grid, solids: list[Ellipsoid]) -> Array:
    """Summed chords: for solids that lie in front of one another."""
    total = grid.zeros()
    for solid in solids:
        at, squared = solid.chord_squared(grid)
        total[at] += np.sqrt(squared)
    return total


def stack(grid: Grid, centre: Array, half_width: Array, half_depth: Array, *, power: int = 2) -> Array:
    """A stack of horizontal (super-)ellipses, one per row ([H]): chord 2 D sqrt(1 - |u|^power).

    ``power`` is 2, 3 or 4: from round to square.
    """
    solid = half_width > 0.05
    total = grid.zeros()
    if not solid.any():
        return total
    column, _ = grid.pixel_of(np.stack([centre - half_width, centre + half_width])[:, solid], grid.z[solid])
    at = slice(max(0, int(column[0].min())), max(0, int(column[1].max()) + 2))
    u = grid.x[:, at] - centre[:, None].astype(np.float32)
    u *= (1.0 / np.where(solid, half_width, 1e-3))[:, None].astype(np.float32)
    inside = u * u
    if power == 3:
        inside *= np.abs(u, out=u)
    elif power == 4:
        inside *= inside
    np.subtract(1.0, inside, out=inside)
    np.maximum(inside, 0.0, out=inside)
    np.sqrt(inside, out=inside)
    np.multiply(inside, (2.0 * half_depth * solid)[:, None].astype(np.float32), out=total[:, at])
    return total


@dataclass(frozen=True, kw_only=True)
class Tubes:
    """Short straight pieces of any number of round tubes; every array is [pieces]."""

    x: Array
    z: Array
    along_x: Array
    along_z: Array
    length: Array
    """In the image plane, cm."""
    radius: Array
    weight: Array
    """Density relative to a tube in the image plane: the secant of the tilt into the beam, times the caller's
    weight."""

    @staticmethod
    def through(points: Array, radius: Array | float, weight: Array | float = 1.0) -> Tubes:
        """Tubes along polylines. ``points`` [N, P, 3] are x, y, z in cm; the others broadcast to [N, P]."""
        step = np.diff(points, axis=1)
        middle = 0.5 * (points[:, 1:] + points[:, :-1])
        full = points.shape[:2]
        radius = np.broadcast_to(radius, full)
        weight = np.broadcast_to(weight, full)
        length = np.maximum(np.hypot(step[..., 0], step[..., 2]), 1e-4)
        secant = np.minimum(np.sqrt((step * step).sum(-1)) / length, 1.6)
        return Tubes(
            x=middle[..., 0].ravel(),
            z=middle[..., 2].ravel(),
            along_x=(step[..., 0] / length).ravel(),
            along_z=(step[..., 2] / length).ravel(),
            length=length.ravel(),
            radius=(0.5 * (radius[:, 1:] + radius[:, :-1])).ravel(),
            weight=(0.5 * (weight[:, 1:] + weight[:, :-1]) * secant).ravel(),
        )

    @staticmethod
    def together(parts: list[Tubes]) -> Tubes:
        names = ("x", "z", "along_x", "along_z", "length", "radius", "weight")
        return Tubes(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def chord(self, grid: Grid, *, marrow: float = 0.0) -> Array:
        """Summed chords, [H, W] float32 cm. ``marrow`` is the density missing inside a bone, as a share."""
        pixel = grid.pixel_cm
        # Pieces thinner or shorter than a pixel are drawn a pixel wide or long, and fainter in proportion.
        radius, length = np.maximum(self.radius, pixel), np.maximum(self.length, pixel)
        weight = 2.0 * self.weight * (self.radius / radius) ** 2 * (self.length / length)
        column, row = grid.pixel_of(self.x, self.z)
        reach = np.ceil(np.hypot(radius, length) / pixel).astype(np.int64)
        # Few window sizes, each in passes about as large as the image, so that small images stay in the cache.
        reach = _REACHES[np.searchsorted(_REACHES, reach)]
        low, high = -reach, grid.size - 1 + reach
        seen = (column > low) & (column < high) & (row > low) & (row < high) & (weight > 1e-4)
        # A window's centre may lie one reach outside the image, and its edge one reach further.
        pad = 2 * int(reach[seen].max(initial=1)) + 1
        wide = grid.size + 2 * pad
        total = np.zeros(wide * wide)
        first_column, first_row = np.rint(column).astype(np.int64), np.rint(row).astype(np.int64)
        off_x = ((first_column - column) * pixel).astype(np.float32)
        off_z = ((first_row - row) * pixel).astype(np.float32)
        corner = (first_row + pad) * wide + first_column + pad
        along_x, along_z = self.along_x.astype(np.float32), self.along_z.astype(np.float32)
        scale, squared = (1.0 / length).astype(np.float32), (radius * radius).astype(np.float32)
        weight = weight.astype(np.float32)
        for k in np.unique(reach[seen]):
            span = np.arange(-k, k + 1)
            offset = (span * pixel).astype(np.float32)[:, None]
            window = (span[:, None] * wide + span[None, :])[:, :, None]
            pieces = np.flatnonzero(seen & (reach == k))
            each = max(1, max(24576, total.size) // span.size**2)
            for first in range(0, pieces.size, each):
                # Pieces on the last axis, [window, window, pieces]: long inner loops.
                pick = pieces[first : first + each]
                cx, cz, tx, tz = offset + off_x[pick], offset + off_z[pick], along_x[pick], along_z[pick]
                inside = (cz * tx)[:, None] - (cx * tz)[None, :]
                inside *= inside
                np.subtract(squared[pick], inside, out=inside)
                value = np.sqrt(np.maximum(inside, 0.0))
                if marrow:
                    inside -= np.float32(1.0 - 0.72**2) * squared[pick]
                    np.sqrt(np.maximum(inside, 0.0, out=inside), out=inside)
                    value -= np.float32(marrow) * inside
                # The tent weights of neighbouring pieces sum to one, so that a tube has even brightness.
                tent = (cz * (tz * scale[pick]))[:, None] + (cx * (tx * scale[pick]))[None, :]
                np.subtract(1.0, np.abs(tent, out=tent), out=tent)
                value *= np.maximum(tent, 0.0, out=tent)
                value *= weight[pick]
                at = window + corner[pick]
                total += np.bincount(at.ravel(), weights=value.ravel(), minlength=wide * wide)
        inner = slice(pad, pad + grid.size)
        return total.reshape(wide, wide)[inner, inner].astype(np.float32)


def bezier(control: Array, points: int) -> Array:
    """Cubic curves, [N, 4, 3] -> [N, points, 3]."""
    t = np.linspace(0.0, 1.0, points)[:, None]
    basis = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3  # [points, 1] each
    return sum(part * control[:, k : k + 1] for k, part in enumerate(basis))
