"""Does the search for the matmul ceiling find what an exhaustive scan finds, in a tenth of its looks?

    pytest tests/bench/test_bench_matmul.py -m bench -s

216 shapes, multiples of 256 up to 1536, against 21 looks. Both winners are measured again in turn, so that neither's
luck counts, and the ratio is of those rates. Nothing here is a timed assertion.
"""

import pytest
from ceiling_pair import compare

from rigbench.machine import host
from rigbench.machine.accelerator import CpuAccelerator
from rigbench.machine.sysfs import Sysfs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
UNIT, LIMIT, PAIRS, BLOCK_SECONDS = 256, 1536, 20, 0.5


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_tenth_of_the_looks_next_to_all_of_them(dtype, benchmark, capsys):
    cpu = host.cpu(Sysfs())
    accelerator = CpuAccelerator(str(cpu.model), host.memory(Sysfs()).total_bytes, cpu.l3_bytes)
    pair = benchmark.pedantic(compare, args=(accelerator, dtype, UNIT, LIMIT, PAIRS, BLOCK_SECONDS), rounds=1)
    benchmark.extra_info.update(
        searched=pair.searched_flops_per_s,
        scanned=pair.scanned_flops_per_s,
        ratio=[pair.ratio.value, pair.ratio.low, pair.ratio.high],
        looks=pair.looks,
        shapes=pair.shapes,
    )
    with capsys.disabled():
        print(f"\n{dtype} on {accelerator.device.name}: {pair.line()}")
    assert pair.looks * 10 <= pair.shapes
    assert len(pair.searched_flops_per_s) == len(pair.scanned_flops_per_s) == PAIRS
