"""A Markdown document's sections with the commands in them, and what it says that they print and end with.

```bash                             commands, one a line; a block without `invoke` is one shell script
```console                          `$ command`, then what it prints, `…` for what is left out
… # exit 12     … # exit 0 or 31    the exit codes that a command may end with; 0 where nothing is said
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

_HEADING: Final = re.compile(r"#{1,6} (.+)")
_EXIT: Final = re.compile(r"\s+# exit (\d+(?: or \d+)*)$")


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, or one shell script.

    Attributes:
        codes: what it may end with.
        shows: pieces of what it prints, in their order; white space is not compared.
    """

    text: str
    codes: frozenset[int] = frozenset({0})
    shows: tuple[str, ...] = ()

    @property
    def is_task(self) -> bool:
        """Whether it is one of the Invoke tasks."""
        return self.text.startswith("invoke ")


@dataclass
class Section:
    """A heading with its commands: the symptom's first, then those that help."""

    title: str
    symptoms: list[Command] = field(default_factory=list)
    remedies: list[Command] = field(default_factory=list)


def sections(text: str) -> list[Section]:
    """The sections of a document, in order; those without a command as well."""
    found: list[Section] = []
    block: list[str] | None = None
    kind = ""
    for line in text.splitlines():
        if line.startswith("```"):
            if block is None:
                kind, block = line[3:].strip(), []
                continue
            into = found[-1].symptoms if kind == "console" else found[-1].remedies
            into.extend(_console(block) if kind == "console" else _bash(block))
            block = None
        elif block is not None:
            block.append(line)
        elif heading := _HEADING.fullmatch(line):
            found.append(Section(heading[1]))
    assert block is None, "a code block that does not end"
    return found


def _bash(lines: list[str]) -> Iterator[Command]:
    if not any(line.startswith("invoke ") for line in lines):
        yield Command("\n".join(lines))
        return
    for line in lines:
        yield _command(line)


def _console(lines: list[str]) -> Iterator[Command]:
    text = "\n".join(lines)
    assert text.startswith("$ "), f"a console block begins with its command: {text}"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, _, output = part.partition("\n")
        yield _command(first, tuple(filter(None, (piece.strip() for piece in output.split("…")))))


def _command(line: str, shows: tuple[str, ...] = ()) -> Command:
    if match := _EXIT.search(line):
        codes = frozenset(int(code) for code in match[1].split(" or "))
        return Command(line[: match.start()], codes, shows)
    return Command(line, shows=shows)


def lacks(shows: Sequence[str], output: str) -> str | None:
    """The first piece of what the document shows that was not printed, if there is one."""
    rest = " ".join(output.split())
    for piece in shows:
        wanted = " ".join(piece.split())
        if wanted not in rest:
            return wanted
        rest = rest[rest.index(wanted) + len(wanted) :]
    return None
