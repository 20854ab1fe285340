"""Import the modules named in argv and say on stdout, one JSON line each, what came of it.

The preflight runs this file's text in a process of its own, because an import can crash or hang the
interpreter. `trying` is printed first, so that whoever reads knows which module was the last. Standard
library only.
"""

from __future__ import annotations

import importlib
import json
import sys


def say(**fields: object) -> None:
    """Print one line, at once: the next import may be the end."""
    print(json.dumps({"probe": True, **fields}), flush=True)


def probe_module(name: str) -> None:
    """Import one module and report its version or what went wrong."""
    say(trying=name)
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        say(module=name, error=f"{type(error).__name__}: {error}")
        return
    say(module=name, version=str(getattr(module, "__version__", "unknown")))


def probe_cuda() -> None:
    """Report what torch sees of CUDA."""
    say(trying="cuda")
    try:
        torch = importlib.import_module("torch")
        available = bool(torch.cuda.is_available())
        count = int(torch.cuda.device_count()) if available else 0
        names = [str(torch.cuda.get_device_name(index)) for index in range(count)]
        say(cuda={"available": available, "count": count, "names": names, "version": torch.version.cuda})
    except BaseException as error:
        say(cuda={"available": False, "count": 0, "names": [], "error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    for module_name in sys.argv[1:]:
        probe_module(module_name)
    if "torch" in sys.argv[1:]:
        probe_cuda()
