"""usearch. Index: {"M", "efConstruction", "dtype", "metric"}. Searches: {"ef"}."""

from importlib.metadata import version

import numpy as np
from measure import run
from usearch.index import Index as UsearchIndex


class Index:
    def __init__(self, keys, kind, threads):
        self.index = UsearchIndex(
            ndim=keys.shape[1],
            metric=kind["metric"],
            dtype=kind["dtype"],
            connectivity=kind["M"],
            expansion_add=kind["efConstruction"],
        )
        self.index.add(np.arange(len(keys), dtype=np.uint64), keys, threads=threads)

    def search(self, queries, k, setting, threads):
        self.index.expansion_search = max(setting["ef"], k)
        return self.index.search(queries, k, threads=threads).keys.reshape(len(queries), -1)

    def bytes(self):
        return int(self.index.serialized_length)


run(f"usearch {version('usearch')}, {UsearchIndex(ndim=64).hardware_acceleration}", Index)
