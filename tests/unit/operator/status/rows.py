"""One row for each rule and each edge of it, in the order of the rules."""

from __future__ import annotations

from unit.operator.status.rows_awaited import AWAITED
from unit.operator.status.rows_between import BETWEEN
from unit.operator.status.rows_ended import ENDED
from unit.operator.status.rows_running import RUNNING
from unit.operator.status.rows_stopped import STOPPED

ROWS = [*ENDED, *STOPPED, *BETWEEN, *AWAITED, *RUNNING]
