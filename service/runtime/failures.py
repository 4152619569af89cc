"""What an exception of ONNX Runtime means: its exceptions have no base of their own, and say in words what is wrong."""

import logging

from service.errors import DeviceMemoryError, ModelFaultError

logger = logging.getLogger("reslens")

# Of its arenas, of the driver, of cuBLAS and cuDNN, and of the C++ library.
OUT_OF_MEMORY = (
    "available memory of",
    "failed to allocate memory",
    "out of memory",
    "alloc_failed",
    "allocation_failed",
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is memory that was missing, on the device or on the host."""
    message = str(error).lower()
    return isinstance(error, MemoryError | DeviceMemoryError) or any(words in message for words in OUT_OF_MEMORY)


def fault(model: str, images: int, error: Exception) -> ModelFaultError:
    """What a client is told: `DeviceMemoryError` where less would have worked, else `ModelFaultError`."""
    if is_out_of_memory(error):
        # How much was asked for of which arena is for those who run the service.
        logger.warning("model %r has no memory for %d images at once: %s", model, images, " ".join(str(error).split()))
        return DeviceMemoryError(f"there is no memory to run model {model!r} on {images} images at once: send fewer")
    return ModelFaultError(f"model {model!r} failed while it ran: {error}; try a smaller batch")
