"""Every kernel lowers for other accelerators, without callbacks and 64-bit numbers."""

import functools
import re

import jax
import jax.numpy as jnp
import jaxmig
import pytest
from jax import export
from jaxmig import migrate
from jaxmig.rules import rules

PAGES = 1024


def machine(what: str) -> jaxmig.Machine:
    b = jaxmig.Builder(nodes=2, cpus=4)
    one = b.process("one", running=[1, 2])
    other = b.process("other", running=[3])
    if what == "large":
        b.mmap(one, PAGES, order=9)
    region = b.mmap([one, other] if what == "shared" else one, PAGES)
    if what == "conditions":
        b.condition(region, "locked", [3])
    b.splits = what == "large"
    return b.build(content=True)


@functools.cache
def module(kernel: str, what: str, safe: bool, platform: str) -> str:
    m = machine(what)
    numbers = (jnp.int32(n) for n in (PAGES, 1, 0))
    args = (m, jnp.zeros(PAGES, jnp.int32), *numbers, migrate.limit_of(512))
    run = functools.partial(migrate.run, r=rules(kernel), safe=safe)
    done = export.export(jax.jit(run, donate_argnums=0), platforms=(platform,))(*args)
    return done.mlir_module()


# Which kernel serves which machine: see migrate.run().
KERNELS = [
    pytest.param("6.2", "base", False, id="serial_pages"),
    pytest.param("6.2", "conditions", False, id="serial"),
    pytest.param("6.2", "large", False, id="serial large"),
    pytest.param("6.3", "base", True, id="batched"),
    pytest.param("6.3", "base", False, id="batched, then stepwise"),
    pytest.param("6.12", "shared", True, id="batched shared"),
    pytest.param("6.3", "conditions", True, id="batched conditions"),
    pytest.param("6.18", "large", False, id="stepwise large"),
    pytest.param("v4", "conditions", False, id="stepwise posted"),
]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("kernel", "what", "safe"), KERNELS)
def test_kernels_lower(kernel, what, safe, platform):
    text = module(kernel, what, safe, platform)
    calls = re.findall(r"stablehlo\.custom_call @(\w+)", text)
    assert not [name for name in calls if "callback" in name or "ffi" in name]
    # Paddings and the like are written as 64-bit numbers whatever the program uses.
    text = re.sub(r"\w+ = dense<[^>]*> : tensor<[^>]*>", "", text)
    wide = re.findall(r"tensor<(?:[0-9?]+x)*(?:u?i64|f64|complex<f64>)>", text)
    assert not wide
