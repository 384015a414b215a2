"""What every Python engine does alike: reads the job (see engine-job.ts), builds, searches, counts, prints the result.

An engine hands `run` its name and a function build(keys, index, threads), which returns an object with
  search(queries, k, setting, threads) -> ids [queries, k]
  bytes() -> bytes of the index, 0 if the library does not say
"""

import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def release_free_memory():
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        pass


def recall(found, truth):
    return sum(len(np.intersect1d(row, true)) for row, true in zip(found, truth)) / truth.size


def singles(index, queries, k, setting, count):
    """Seconds of single queries, one call each, after some to warm up."""
    times = []
    for number in range(-20, count):
        query = queries[number % len(queries) : number % len(queries) + 1]
        start = time.perf_counter()
        index.search(query, k, setting, 1)
        if number >= 0:
            times.append(time.perf_counter() - start)
    return {"median": float(np.median(times)), "p95": float(np.percentile(times, 95))}


def run(name, build):
    job = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    about = json.loads((folder / f"{job['data']}.json").read_text())
    sets, d, k = about["sets"], about["dimensions"], about["k"]

    def load(part, dtype, width):
        return np.fromfile(folder / f"{job['data']}.{part}", dtype).reshape(sets, -1, width)

    keys = load("keys.f32", "<f4", d)
    stride = max(1, about["queries"] // job.get("queries", about["queries"]))
    queries = np.ascontiguousarray(load("queries.f32", "<f4", d)[:, ::stride])
    truth = np.ascontiguousarray(load("truth.i32", "<i4", about["truth"])[:, ::stride, :k])
    used = min(sets, job.get("sets", sets))
    runs = [
        {"threads": t, "points": [{"setting": s, "seconds": 0.0, "recall": 0.0} for s in job["searches"]]}
        for t in job["threads"]
    ]
    index_bytes = grown = 0
    for s in range(used):
        index = None
        for number, result in enumerate(runs):
            threads = result["threads"]
            if index is None or job["rebuild"]:
                index = None
                release_free_memory()
                before = resident()
                start = time.perf_counter()
                index = build(keys[s], job["index"], threads)
                result["buildSeconds"] = result.get("buildSeconds", 0.0) + time.perf_counter() - start
                if number == 0:
                    release_free_memory()
                    grown += max(0, resident() - before)
                    index_bytes += index.bytes()
            index.search(queries[s][:64], k, job["searches"][0], threads)  # threads are there, caches are warm
            for point in result["points"]:
                start = time.perf_counter()
                found = index.search(queries[s], k, point["setting"], threads)
                point["seconds"] += time.perf_counter() - start
                point["recall"] += recall(found, truth[s]) / used
                if job.get("singles") and s == 0 and threads == min(job["threads"]):
                    point["single"] = singles(index, queries[s], k, point["setting"], job["singles"])
    print(
        json.dumps(
            {
                "engine": name,
                "indexBytes": index_bytes,
                "grownBytes": grown,
                "rawBytes": used * keys[0].nbytes,
                "sets": used,
                "queries": queries.shape[1],
                "runs": runs,
            }
        )
    )
