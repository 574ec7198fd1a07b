"""Whether attention has a forward derivative that fits a device: what a backbone may answer with. Torch-free.

Fused attention never has the table of its scores whole, and has no forward derivative. Plain attention has one, and has
at once, in float32 whatever the precision of the rest: scores and weights, the tangents of both, and two tables in
between (measured with torch 2.13: 5.1 to 5.6 tables of the size heads x tokens x tokens).
"""

from __future__ import annotations

_TABLES = 6
_FLOAT32 = 4
_MOST = 20e9  # bytes of one sample: a quarter of an 80 GB device


def scores_too_large(heads: int, tokens: int) -> str | None:
    """Why attention of `heads` over `tokens` has no forward derivative that fits; None if it has one."""
    size = _TABLES * _FLOAT32 * heads * tokens**2
    if size <= _MOST:
        return None
    return (
        f"the forward derivative of attention holds its scores whole, {tokens:,} x {tokens:,} tokens in {heads} heads: "
        f"{size / 1e9:,.0f} GB for one sample"
    )
