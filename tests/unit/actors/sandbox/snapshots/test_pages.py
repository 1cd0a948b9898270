"""How many records a page has, whatever they are called."""

from itertools import count
from zlib import crc32

from actors.sandbox.snapshots.records import Record, ends_page


def test_names_that_would_each_end_a_page_do_not() -> None:
    chosen = (path for number in count() if crc32((path := f"work/{number}").encode()) % 256 == 0)
    records: list[Record] = []
    while not records or not ends_page(records):
        records.append(Record("directory", next(chosen), 0o755, 0))
    assert len(records) == 64
