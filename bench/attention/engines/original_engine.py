"""The published IceFormer code, built by the user (`--original FOLDER`, which has the package mdci). The job is argv[1].

It has no grouped heads and no stored index: keys and values are handed over once for each query head, and one call
builds, searches and multiplies. Settings are those of its README: 2 composite and 4 simple indices, 3 levels, and as
many cells in view as neighbours. Its time for all heads is that of some heads, scaled up: it works on one head per
thread.
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

JOB = json.loads(sys.argv[1])
# It keeps arrays of n numbers on the stacks of its threads. OpenMP reads its settings when it is loaded.
STACK = 1 << 29
os.environ["OMP_STACKSIZE"] = f"{STACK}B"
os.environ["OMP_NUM_THREADS"] = str(JOB["threads"])
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy  # noqa: E402

sys.path.insert(0, JOB["options"]["entry"])

from mdci import DCI  # noqa: E402


def main():
    options, n, width = JOB["options"], JOB["n"], JOB["headDim"]
    heads, group, k = options["heads"], JOB["heads"] // JOB["kvHeads"], options["k"]
    files = JOB["layers"][0]

    def read(file, total, wanted):
        """`[wanted heads * n, headDim]`"""
        numbers = numpy.fromfile(file, dtype="<f4", count=n * total * width).reshape(n, total, width)
        return numpy.ascontiguousarray(numbers[:, wanted].transpose(1, 0, 2).reshape(-1, width))

    shared = [head // group for head in heads]
    query = read(files["q"], JOB["heads"], heads)
    key, value = read(files["k"], JOB["kvHeads"], shared), read(files["v"], JOB["kvHeads"], shared)
    start = time.perf_counter()
    index = DCI(width, 2, 4, max_num_points=n)
    output = index.add_query(
        key,
        query,
        value,
        numpy.ones(len(heads) * n, dtype=numpy.bool_),
        num_levels=3,
        num_inst=len(heads),
        num_points=n,
        num_neighbours=k,
        c_num_to_visit=n,
        c_num_to_retrieve=-1,
        c_prop_to_visit=1.0,
        c_prop_to_retrieve=0.002,
        c_field_of_view=5,
        q_num_to_visit=n,
        q_field_of_view=k,
        q_num_to_retrieve=-1,
        q_prop_to_visit=1.0,
        q_prop_to_retrieve=0.8,
        parallel_level=1,
        causal=True,
    )
    ms = (time.perf_counter() - start) * 1000
    output = output.reshape(len(heads), n, width)[:, JOB["rows"]].transpose(1, 0, 2)
    output.astype("<f4").tofile(JOB["output"])
    result = {"layers": [{"ms": ms * JOB["heads"] / len(heads)}], "heads": heads, "engine": f"mdci 0.1.0, k = {k}"}
    print(json.dumps(result))


threading.stack_size(STACK)
with ThreadPoolExecutor(1) as executor:
    executor.submit(main).result()
