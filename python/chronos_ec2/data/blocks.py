"""Some rows of a file as values, each with its series and its time: what all formats come down to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chronos_ec2.data.arrow_values import Part, lengths_of, names_of, numbers_of, times_of
from chronos_ec2.data.columns import Columns
from chronos_ec2.data.frequencies import KNOWN, Frequency, parse_frequency, spread
from chronos_ec2.data.layout import FREQUENCY, Layout, is_list


@dataclass(frozen=True, slots=True)
class Block:
    """Some values of a file."""

    ids: list[str]
    """The series that occur."""
    codes: NDArray[np.int64]
    """Which of `ids` each value belongs to, shape [values]."""
    times: NDArray[np.int64]
    """Microseconds since 1970, UTC, shape [values]."""
    values: NDArray[np.float32]
    """NaN where one is missing, shape [variates, values]."""
    rows: NDArray[np.int64]
    """The row of the file that each stands in, counted from 0, shape [values]."""
    time_column: str
    """The file's column of times."""


def block_of(part: Part, layout: Layout, columns: Columns) -> Block:
    """The values of a part; rows that a problem was told of are left out."""
    return _long(part, layout, columns) if layout.format == "long" else _series_rows(part, layout)


def lengths_in(part: Part, layout: Layout) -> tuple[list[str], NDArray[np.int64]]:
    """The series in a part, and how many values each has there at most."""
    ids, codes = _names(part, layout)
    named = codes >= 0
    if layout.format == "long":
        return ids, np.bincount(codes[named], minlength=len(ids))
    lengths = np.maximum(_first_lengths(part, layout), 0)
    # Whole numbers this small are exact in the floats that bincount adds up.
    return ids, np.bincount(codes[named], lengths[named], minlength=len(ids)).astype(np.int64)


def _names(part: Part, layout: Layout) -> tuple[list[str], NDArray[np.int64]]:
    if layout.item_id is not None:
        return names_of(part, layout.item_id)
    stem = part.file.removesuffix(".parquet")
    return [f"{stem}-{row}" for row in part.rows.tolist()], np.arange(len(part.rows))


def _long(part: Part, layout: Layout, columns: Columns) -> Block:
    ids, codes = _names(part, layout)
    times, null = times_of(part, layout.time, part.batch[layout.time])
    values = np.empty((len(columns.variates), len(codes)), dtype=np.float32)
    for place, name in enumerate(columns.variates):
        values[place] = numbers_of(part, name, part.batch[name])
    return _kept(Block(ids, codes, times, values, part.rows, layout.time), (codes >= 0) & ~null)


def _kept(block: Block, kept: NDArray[np.bool_]) -> Block:
    if kept.all():
        return block
    return replace(
        block,
        codes=block.codes[kept],
        times=block.times[kept],
        values=block.values[:, kept],
        rows=block.rows[kept],
    )


# -- one row a series ---------------------------------------------------------------------------------


def _series_rows(part: Part, layout: Layout) -> Block:
    ids, codes = _names(part, layout)
    lengths = _first_lengths(part, layout)
    wrong = codes < 0
    for name, count in layout.values:
        wrong |= _wrong_lists(part, name, count, lengths, layout)
    frequencies = _frequencies(part, layout)
    wrong |= _wrong_times(part, layout, lengths, frequencies)
    part, codes, lengths = part.without(wrong), codes[~wrong], lengths[~wrong]
    owners = np.repeat(part.rows, lengths)
    values = np.stack([numbers_of(part, name, flat, owners) for name, flat in _variates(part, layout)])
    if is_list(part.batch.schema.field(layout.time).type):
        times, null = times_of(part, layout.time, part.batch[layout.time].flatten(), owners)
    else:
        starts, _ = times_of(part, layout.time, part.batch[layout.time])
        chosen = [found for found, gone in zip(frequencies, wrong, strict=True) if found and not gone]
        times, null = spread(starts, chosen, lengths), np.zeros(len(owners), dtype=bool)
    return _kept(Block(ids, np.repeat(codes, lengths), times, values, owners, layout.time), ~null)


def _variates(part: Part, layout: Layout) -> Iterator[tuple[str, pa.Array]]:
    """Each variate's values, all series behind each other, with the name of its column."""
    for name, count in layout.values:
        given = part.batch[name]
        if not is_list(given.type.value_type):
            yield name, given.flatten()
            continue
        lists = given.flatten()
        for place in range(count):
            yield name, lists.take(pa.array(np.arange(place, len(lists), count))).flatten()


def _first_lengths(part: Part, layout: Layout) -> NDArray[np.int64]:
    """How many values each row has by its first column of numbers, -1 for a null."""
    given = part.batch[layout.values[0][0]]
    lengths = lengths_of(given)
    if not is_list(given.type.value_type):
        return lengths
    filled = lengths > 0
    first = (np.cumsum(np.maximum(lengths, 0)) - lengths)[filled]
    inner = np.full(len(lengths), -1, dtype=np.int64)
    inner[filled] = lengths_of(given.flatten())[first]
    return inner


def _wrong_lists(
    part: Part, name: str, count: int, lengths: NDArray[np.int64], layout: Layout
) -> NDArray[np.bool_]:
    """The rows whose lists are not there, or not of the length of the first column's."""
    given = part.batch[name]
    found, wrong = lengths_of(given), np.zeros(len(lengths), dtype=bool)
    null = found < 0
    part.tell("null", name, null, "null; every row needs a list, which may be empty")
    if is_list(given.type.value_type):
        wrong = ~null & (found != count)
        numbers = found[wrong]
        part.tell("shape", name, wrong, lambda n: f"{numbers[n]} lists where {count} columns are named")
        whole = ~null & ~wrong
        inner = lengths_of(given.filter(pa.array(whole)).flatten()).reshape(-1, count)
        found[whole] = np.where((inner == inner[:, :1]).all(axis=1), inner[:, 0], -1)
    # Where the first column has no length, it has been told of.
    uneven = ~null & ~wrong & ((found < 0) | ((found != lengths) & (lengths >= 0)))
    _tell_lengths(part, layout, name, uneven, found, lengths)
    return np.asarray(null | wrong | uneven, dtype=bool)


def _tell_lengths(
    part: Part,
    layout: Layout,
    name: str,
    wrong: NDArray[np.bool_],
    found: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    pairs = list(zip(found[wrong].tolist(), lengths[wrong].tolist(), strict=True))

    def message(position: int) -> str:
        mine, first = pairs[position]
        if mine < 0:
            return "a list is null, or not as long as the one beside it; make them equal"
        return f"{mine} values where {layout.values[0][0]} has {first}; make them equal"

    part.tell("shape", name, wrong, message)


def _frequencies(part: Part, layout: Layout) -> list[Frequency | None]:
    if is_list(part.batch.schema.field(layout.time).type):
        return []
    if not layout.has_frequency:
        return [parse_frequency(layout.stored_frequency)] * len(part.rows)
    texts = part.batch[FREQUENCY].cast(pa.string()).to_pylist()
    known = {text: parse_frequency(text) for text in set(texts)}
    return [known[text] for text in texts]


def _wrong_times(
    part: Part, layout: Layout, lengths: NDArray[np.int64], frequencies: list[Frequency | None]
) -> NDArray[np.bool_]:
    given = part.batch[layout.time]
    if is_list(given.type):
        found = lengths_of(given)
        wrong = (found != lengths) & (lengths >= 0)
        _tell_lengths(part, layout, layout.time, wrong, found, lengths)
        return np.asarray(wrong, dtype=bool)
    _, null = times_of(part, layout.time, given)
    unknown = np.array([frequency is None for frequency in frequencies], dtype=bool)
    texts = part.batch[FREQUENCY].filter(pa.array(unknown)).to_pylist() if layout.has_frequency else []
    part.tell(
        "no-frequency",
        FREQUENCY,
        unknown,
        lambda n: f"{(texts[n] if texts else layout.stored_frequency)!r} is no frequency; {KNOWN}",
    )
    return np.asarray(null | unknown, dtype=bool)
