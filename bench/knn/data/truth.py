"""Finds the true neighbours of a dataset's queries: by faiss over all vectors, with some to spare, then exactly in
double precision among those.

usage: truth.py FOLDER NAME
writes NAME.truth.i32, [sets, queries, truth], nearest first.
"""

import json
import sys
from pathlib import Path

import faiss
import numpy as np

SPARE = 32
BLOCK = 1024


def main():
    folder, name = Path(sys.argv[1]), sys.argv[2]
    about = json.loads((folder / f"{name}.json").read_text())
    sets, d, k = about["sets"], about["dimensions"], about["truth"]
    keys = np.memmap(folder / f"{name}.keys.f32", "<f4", "r").reshape(sets, -1, d)
    queries = np.memmap(folder / f"{name}.queries.f32", "<f4", "r").reshape(sets, -1, d)
    truth = np.empty((sets, queries.shape[1], k), "<i4")
    for s in range(sets):
        index = faiss.IndexFlatIP(d)
        index.add(keys[s])
        for start in range(0, queries.shape[1], BLOCK):
            block = queries[s, start : start + BLOCK]
            _, found = index.search(block, min(k + SPARE, keys.shape[1]))
            scores = np.einsum("qcd,qd->qc", keys[s][found].astype("f8"), block.astype("f8"))
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            truth[s, start : start + BLOCK] = np.take_along_axis(found, order, axis=1)
    partial = folder / f"{name}.truth.partial"
    truth.tofile(partial)
    partial.rename(folder / f"{name}.truth.i32")


main()
