"""How sessions run on a CUDA device: the options that ONNX Runtime is given, and what they are for."""

from dataclasses import dataclass
from typing import Literal, Self

from service.errors import StartupError
from service.runtime.provider import CPU
from service.settings import Settings

# Larger steps at a time ask the driver less often; exact ones leave more to others.
_ARENA = {"double": "kNextPowerOfTwo", "exact": "kSameAsRequested"}


@dataclass(frozen=True)
class CudaOptions:
    """Of all sessions of a process. Each has an arena of its own, which the limit counts for."""

    device: int = 0
    memory_megabytes: int | None = None
    """Of one session; None for all that the device has."""
    arena: Literal["double", "exact"] = "double"
    arena_shrink: bool = False
    """Whether what a run has used goes back to the device after it."""
    tf32: bool = False
    """TF32 keeps 10 bits of mantissa in convolutions, so that logits are not quite those that were published."""
    search: Literal["heuristic", "exhaustive", "default"] = "heuristic"
    """How cuDNN chooses the algorithm of a convolution. All batch sizes are run at load, so that an exhaustive search
    is over when the first request comes."""
    precision: Literal["auto", "fp32", "fp16"] = "auto"
    graphs: Literal["auto", "on", "off"] = "auto"
    """CUDA graphs: `auto` where a model can be captured, `on` where one that cannot is not to be served."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            device=settings.device,
            memory_megabytes=settings.gpu_memory_megabytes,
            arena=settings.gpu_arena,
            arena_shrink=settings.gpu_arena_shrink,
            tf32=settings.tf32,
            search=settings.cudnn_search,
            precision=settings.precision,
            graphs=settings.cuda_graphs,
        )

    def check(self, provider: str) -> None:
        """Raise `StartupError` where the provider cannot do what is asked for."""
        if self.precision == "fp16" and provider == CPU:
            raise StartupError(
                "RESLENS_PRECISION=fp16 needs CUDA: the CPU is no faster in half precision; set it to auto"
            )

    @property
    def captures(self) -> bool:
        """Whether capturing is to be tried: memory that a captured graph uses must never go back to the device."""
        return self.graphs != "off" and not self.arena_shrink

    def provider_options(self, capture: bool = False) -> dict[str, str]:
        """Options of ONNX Runtime's CUDA provider, for a session that captures its runs or does not."""
        options = {
            "device_id": str(self.device),
            "arena_extend_strategy": _ARENA[self.arena],
            "cudnn_conv_algo_search": self.search.upper(),
            "use_tf32": str(int(self.tf32)),
            "enable_cuda_graph": str(int(capture)),
        }
        if self.memory_megabytes is not None:
            options["gpu_mem_limit"] = str(self.memory_megabytes << 20)
        return options
