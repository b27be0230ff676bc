"""The battery of stress tests, what its table says, and the table on disk."""

from galstress.battery.records import read_table, write_table
from galstress.battery.summary import rotation_spread, summarise, summarise_spread
from galstress.battery.table import stress

__all__ = ["read_table", "rotation_spread", "stress", "summarise", "summarise_spread", "write_table"]
