"""What this machine can do at most: the rates of a large matrix product and of a large copy, through JAX."""

import time
from typing import Any

from experiments.benchmarks.peers import Prepared


def rates(case: dict[str, Any]) -> Prepared:
    """Measure both, best of `repeats`, with a matrix of `size` and `megabytes` to copy, larger on an accelerator; name the device."""
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
        size, count = (
            (case["size"], case["megabytes"] << 18)
            if device.platform == "cpu"
            else (4 * case["size"], case["megabytes"] << 20)
        )
        found = {"device": device.device_kind, "device_platform": device.platform}
        for name, dtype in (("matmul_gflops", jnp.float32), ("matmul_gflops_bfloat16", jnp.bfloat16)):
            if device.platform != "cpu" or dtype == jnp.float32:  # a CPU may take a minute for the other
                a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
                found[name] = 2 * size**3 / best(jax.jit(jnp.dot), a, a) / 1e9
        x = jnp.ones(count, jnp.float32)
        return found | {
            "copy_gbs": 2 * x.nbytes / best(jax.jit(lambda x: -x), x) / 1e9
        }  # a plain copy would not be made

    return Prepared(lambda: None, facts=facts)
