"""The limits of this machine: the rates of a large matrix product and of a large copy, through JAX."""

import time
from typing import Any

from experiments.benchmarks.peers import Prepared


def rates(case: dict[str, Any]) -> Prepared:
    """Measure both rates and name the device.

    Args:
        case: `size` of the matrix, `megabytes` to copy (both larger on an accelerator), and `repeats`, of which the
            best counts.

    """
    import jax
    import jax.numpy as jnp

    def best(function: Any, *args: Any) -> float:
        times = []
        for _ in range(case["repeats"] + 1):  # the first compiles
            start = time.perf_counter()
            jax.block_until_ready(function(*args))
            times.append(time.perf_counter() - start)
        return min(times[1:])

    def facts() -> dict[str, Any]:
        device = jax.devices()[0]
        factor = 1 if device.platform == "cpu" else 4
        size, count = factor * case["size"], factor * case["megabytes"] << 18
        found = {"device": device.device_kind, "device_platform": device.platform}
        for name, dtype in (("matmul_gflops", jnp.float32), ("matmul_gflops_bfloat16", jnp.bfloat16)):
            if device.platform != "cpu" or dtype == jnp.float32:  # bfloat16 may take a minute on a CPU
                a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
                found[name] = 2 * size**3 / best(jax.jit(jnp.dot), a, a) / 1e9
        x = jnp.ones(count, jnp.float32)
        negate = jax.jit(lambda x: -x)  # XLA would elide a plain copy
        return found | {"copy_gbs": 2 * x.nbytes / best(negate, x) / 1e9}

    return Prepared(lambda: None, facts=facts)
