"""Errors that mean that memory ran out, on the host or on a device."""

SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "Cannot allocate memory", "std::bad_alloc")


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)
