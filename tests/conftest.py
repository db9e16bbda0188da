"""Compiled code is kept between runs of the suite: most of its time is compilation."""

import os

import jax
import pytest
from hypothesis import settings

# How long an example takes depends on who else uses the processor.
settings.register_profile("jaxmig", deadline=None)
settings.load_profile("jaxmig")


def pytest_configure(config: pytest.Config) -> None:
    cache = getattr(config, "cache", None)
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
