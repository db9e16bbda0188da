"""Lists of any length: where chunks and copy steps end changes nothing."""

import jaxmig
import numpy as np
import pytest
from jaxmig.migrate import CHUNK


@pytest.mark.parametrize("pages", [1, 127, 1000, CHUNK + 1, CHUNK + 3000])
def test_every_page_of_a_list_moves_with_its_contents(pages):
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("app", running=[1, 2, 3]), pages)
    before = b.build(seed=1)
    old = np.asarray(before.pte[:pages, 0])
    after, result = jaxmig.migrate_pages(before, old, 1, kernel="6.3")
    new = np.asarray(after.pte[:pages, 0])
    assert result.ret == 0
    assert result.vmstat["pgmigrate_success"] == pages
    assert np.unique(new).size == pages
    assert (new >= before.geometry.frames_per_node).all()
    np.testing.assert_array_equal(after.memory[new], before.memory[old])
