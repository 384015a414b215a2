"""hnswlib. Index: {"M", "efConstruction"}. Searches: {"ef"}."""

from importlib.metadata import version

import hnswlib
from measure import run


class Index:
    def __init__(self, keys, kind, threads):
        self.index = hnswlib.Index(space="ip", dim=keys.shape[1])
        self.index.init_index(max_elements=len(keys), M=kind["M"], ef_construction=kind["efConstruction"], random_seed=1)
        self.index.add_items(keys, num_threads=threads)

    def search(self, queries, k, setting, threads):
        self.index.set_ef(max(setting["ef"], k))
        return self.index.knn_query(queries, k=k, num_threads=threads)[0]

    def bytes(self):
        return self.index.index_file_size()


run(f"hnswlib {version('hnswlib')}", Index)
