"""Who is served next: units are dealt to tenants by how many each has in work, and within one to its batches likewise.

So a batch of one item that comes behind ten thousand gets the next unit that is free, and a tenant with twenty batches
no more than one with one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """An open batch: units in work, and units that wait. Older ones have smaller numbers."""

    number: int
    batch_id: str
    tenant: str
    leased: int
    queued: int


def dealt(shares: Sequence[Share], count: int) -> dict[str, int]:
    """How many of `count` units to take of each batch; less than `count` if there are no more."""
    of_tenant: Counter[str] = Counter()
    for share in shares:
        of_tenant[share.tenant] += share.leased
    if len(shares) == 1:
        return {share.batch_id: min(count, share.queued) for share in shares if share.queued}
    given: Counter[str] = Counter()
    left = [share for share in shares if share.queued > 0]
    while left and given.total() < count:
        first = min(
            left, key=lambda share: (of_tenant[share.tenant], share.leased + given[share.batch_id], share.number)
        )
        given[first.batch_id] += 1
        of_tenant[first.tenant] += 1
        if given[first.batch_id] == first.queued:
            left.remove(first)
    return dict(given)
