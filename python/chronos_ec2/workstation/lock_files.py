"""Write `requirements/*.lock` anew from `requirements/*.in`, by pip's own resolver; installs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from chronos_ec2.errors import ChronosError
from chronos_ec2.workstation.settings import REPOSITORY


def resolve(requirements: Path) -> list[str]:
    """The exact versions that pip would install for a file, as `name==version`, sorted.

    Raises:
        ChronosError: pip found no set of versions that fits.
    """
    argv = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = subprocess.run(
        [*argv, "--report", "-", "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChronosError(f"pip cannot resolve {requirements}: {done.stderr.strip()}")
    items = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    # A local label such as +cpu names one machine's build; the lock is for every machine.
    pins = {f"{item['name']}=={item['version'].split('+')[0]}" for item in items}
    return sorted(pins, key=str.lower)


def main() -> int:
    """Lock every `.in` file."""
    for source in sorted((REPOSITORY / "requirements").glob("*.in")):
        try:
            pins = resolve(source)
        except ChronosError as error:
            print(f"lock: {error}", file=sys.stderr)
            return int(error.exit_code)
        source.with_suffix(".lock").write_text("\n".join(pins) + "\n")
        print(f"{source.with_suffix('.lock')}: {len(pins)} packages")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
