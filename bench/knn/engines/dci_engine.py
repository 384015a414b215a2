"""The reference implementation of Prioritized DCI, built by the user (`--dci FOLDER`, which has the package dciknn).

It searches by Euclidean distance, so keys and queries are embedded as IceFormer does, which makes the nearest key the
one with the largest inner product. Index: {"composite", "simple", "levels"}. Searches: {"fieldOfView", "retrieve"}.
"""

import ctypes
import json
import sys

import numpy as np

np.float = np.float64  # the package was written for numpy before 1.24
sys.path.insert(0, json.loads(sys.argv[1])["entry"])

from dciknn import DCI  # noqa: E402
from measure import run  # noqa: E402

OPENMP = ctypes.CDLL("libgomp.so.1")  # the one that the package is linked with


class Index:
    def __init__(self, keys, kind, threads):
        OPENMP.omp_set_num_threads(threads)
        lengths = (keys.astype("f8") ** 2).sum(axis=1, keepdims=True)
        largest = np.sqrt(lengths.max())
        rest = np.sqrt(np.maximum(0, 1 - lengths / largest**2))
        self.keys = np.hstack([keys / largest, rest]).astype("f8", order="C")
        self.index = DCI(self.keys.shape[1], kind["composite"], kind["simple"])
        self.index.add(self.keys, num_levels=kind["levels"], field_of_view=10, prop_to_retrieve=0.002)

    def search(self, queries, k, setting, threads):
        OPENMP.omp_set_num_threads(threads)
        unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        embedded = np.hstack([unit, np.zeros((len(unit), 1))]).astype("f8", order="C")
        return self.index.query(
            embedded, num_neighbours=k, field_of_view=setting["fieldOfView"], prop_to_retrieve=setting["retrieve"]
        )[0]

    def bytes(self):
        return 0


run("dciknn 0.1.0", Index)
