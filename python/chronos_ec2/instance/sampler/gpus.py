"""The GPUs by NVML, the library behind nvidia-smi. A machine without it has no GPUs here, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chronos_ec2.metrics_log import Record


class Gpus:
    """Every GPU of the machine.

    Args:
        log: takes one line of talk.
        nvml: the module `pynvml`; None imports it.

    Attributes:
        problem: why there is no NVML; None when it works.
    """

    def __init__(self, log: Callable[[str], None], nvml: Any = None) -> None:
        self._log = log
        self._nvml = nvml
        self._handles: list[Any] = []
        self._told: set[str] = set()
        self.problem: str | None = None
        if nvml is None:
            try:
                import pynvml
            except ImportError as error:
                self.problem = f"the training environment lacks nvidia-ml-py: {error}"
                return
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except self._nvml.NVMLError as error:
            self.problem = str(error)

    def describe(self) -> list[Record]:
        """What each GPU is: `index`, `name`, `memory_total_bytes`."""
        return [self._describe(index, handle) for index, handle in enumerate(self._handles)]

    def sample(self) -> list[Record]:
        """What each GPU does now (docs/metrics.md); what one does not tell is None."""
        return [self._sample(index, handle) for index, handle in enumerate(self._handles)]

    def _describe(self, index: int, handle: Any) -> Record:
        name = self._ask(index, "name", self._nvml.nvmlDeviceGetName, handle)
        memory = self._ask(index, "memory", self._nvml.nvmlDeviceGetMemoryInfo, handle)
        return {
            "index": index,
            "name": name.decode(errors="replace") if isinstance(name, bytes) else name,
            "memory_total_bytes": None if memory is None else memory.total,
        }

    def _sample(self, index: int, handle: Any) -> Record:
        nvml = self._nvml
        rates = self._ask(index, "utilisation", nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(index, "memory", nvml.nvmlDeviceGetMemoryInfo, handle)
        milliwatts = self._ask(index, "power", nvml.nvmlDeviceGetPowerUsage, handle)
        heat = self._ask(
            index, "temperature", nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
        )
        return {
            "index": index,
            "util_percent": None if rates is None else rates.gpu,
            "memory_bytes": None if memory is None else memory.used,
            "memory_total_bytes": None if memory is None else memory.total,
            "power_watts": None if milliwatts is None else milliwatts / 1000,
            "temperature_celsius": heat,
        }

    def _ask(self, index: int, what: str, question: Callable[..., Any], *about: Any) -> Any:
        """An answer, or None where this GPU has none: some tell no power, a broken one tells nothing."""
        try:
            return question(*about)
        except self._nvml.NVMLError as error:
            self._tell(f"GPU {index} does not tell its {what}: {error}")
            return None

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._log(text)
