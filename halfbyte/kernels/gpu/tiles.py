"""4-bit weights in the order in which `stream_linear.cu` reads them.

A tile is 16 rows, a step 64 columns. The word of lane 4 g + t for product 2 h + j of a step holds, of the rows g and
g + 8, the columns c = 32 h + 8 t + 4 j and the three behind it:

    bits 0-3    row g, c         16-19   row g, c + 1
    bits 4-7    row g + 8, c     20-23   row g + 8, c + 1
    bits 8-11   row g, c + 2     24-27   row g, c + 3
    bits 12-15  row g + 8, c + 2 28-31   row g + 8, c + 3

Behind the steps of a unit (one, or two if groups are of 128) comes for each of its groups and each g a pair of words,
of rows g and g + 8: the float16 scale below, the float16 -(1024 + z), or for row g + 8 -(64 + z), above.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from halfbyte.checkpoint.int4 import Int4Weight

ROWS, COLUMNS = 16, 64
GROUPS = (128, 64, 32)


@dataclass(slots=True)
class Tiles:
    """data: uint8 [tiles, bytes of a tile], rows filled up with zeros to whole tiles; N, K: of the weight."""

    data: torch.Tensor
    N: int
    K: int
    group: int


def group_of(w: Int4Weight) -> int | None:
    """The group size that tiles of this weight have; None if it cannot have tiles."""
    K = w.q.shape[1]
    if K % COLUMNS:
        return None
    return next((g for g in GROUPS if w.group_size % g == 0 and K % g == 0), None)


def pack_tiles(w: Int4Weight) -> Tiles:
    """Tiles on the weight's device. `group_of(w)` must not be None."""
    group = group_of(w)
    assert group is not None
    N, K = w.q.shape
    missing = -N % ROWS
    q = torch.nn.functional.pad(w.q, (0, 0, 0, missing))
    tiles, steps = q.shape[0] // ROWS, K // COLUMNS
    # [tile, r8, g, step, h, t, j, pair, odd]
    q = q.view(tiles, 2, 8, steps, 2, 4, 2, 2, 2)
    words = torch.zeros(tiles, 8, steps, 2, 4, 2, dtype=torch.int64, device=q.device)
    for lower in range(2):
        for pair in range(2):
            for odd in range(2):
                words |= q[:, lower, :, :, :, :, :, pair, odd].long() << (16 * odd + 8 * pair + 4 * lower)
    # [tile, step, g, t, h, j]: lane, then product
    words = words.permute(0, 2, 1, 4, 3, 5).reshape(tiles, steps, -1)
    repeat = w.group_size // group
    s = torch.nn.functional.pad(w.s.repeat_interleave(repeat, 1), (0, 0, 0, missing)).half()
    z = torch.nn.functional.pad(w.z.repeat_interleave(repeat, 1), (0, 0, 0, missing)).half()
    s, z = (x.view(tiles, 2, 8, -1).permute(0, 3, 2, 1) for x in (s, z))  # [tile, group, g, r8]
    base = torch.tensor([1024.0, 64.0], dtype=torch.float16, device=q.device)
    meta = torch.stack([s, -(base + z)], -1).contiguous()
    units = K // max(group, COLUMNS)
    parts = [_bytes(words.to(torch.int32), tiles, units), _bytes(meta, tiles, units)]
    return Tiles(torch.cat(parts, 2).view(tiles, -1), N, K, group)


def _bytes(tensor: torch.Tensor, tiles: int, units: int) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8).view(tiles, units, -1)


def unpack_tiles(tiles: Tiles) -> torch.Tensor:
    """The float32 weight [N, K], read as the kernel does, for tests."""
    units = tiles.K // max(tiles.group, COLUMNS)
    steps, groups = (2 if tiles.group == 128 else 1), (2 if tiles.group == 32 else 1)
    data = tiles.data.view(-1, units, 512 * steps + 64 * groups)
    count = data.shape[0]
    words = data[:, :, : 512 * steps].contiguous().view(torch.int32).view(count, units * steps, 8, 4, 2, 2)
    meta = data[:, :, 512 * steps :].contiguous().view(torch.float16).view(count, units * groups, 8, 2, 2).float()
    out = torch.empty(count, 2, 8, units * steps, 2, 4, 2, 2, 2)
    for lower, base in ((0, 1024), (1, 64)):
        zero = (-meta[..., lower, 1] - base).permute(0, 2, 1)  # [tile, g, group]
        scale = meta[..., lower, 0].permute(0, 2, 1)
        for pair in range(2):
            for odd in range(2):
                q = (words >> (16 * odd + 8 * pair + 4 * lower)) & 15  # [tile, step, g, t, h, j]
                out[:, lower, :, :, :, :, :, pair, odd] = q.permute(0, 2, 1, 4, 3, 5).float()
        part = out[:, lower].view(count, 8, -1, tiles.group)
        part.sub_(zero[..., None]).mul_(scale[..., None])
    return out.view(-1, tiles.K)[: tiles.N]
