"""faiss. Index: {"factory": "IVF64,Flat", "iterations", "efConstruction"}. Searches: {"nprobe", "ef", "refine"}."""

import faiss
from measure import run


def limit_training(index, iterations):
    """k-means rounds: faiss's default of 25 is far more than small indexes need."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        index = faiss.downcast_index(index.base_index)
    if hasattr(index, "cp"):
        index.cp.niter = iterations
    if hasattr(index, "pq"):
        index.pq.cp.niter = iterations


class Index:
    def __init__(self, keys, kind, threads):
        faiss.omp_set_num_threads(threads)
        self.index = faiss.index_factory(keys.shape[1], kind["factory"], faiss.METRIC_INNER_PRODUCT)
        if "efConstruction" in kind:
            faiss.downcast_index(self.index).hnsw.efConstruction = kind["efConstruction"]
        if "iterations" in kind:
            limit_training(self.index, kind["iterations"])
        self.index.train(keys)
        self.index.add(keys)

    def search(self, queries, k, setting, threads):
        faiss.omp_set_num_threads(threads)
        params = None
        if "nprobe" in setting:
            params = faiss.SearchParametersIVF(nprobe=setting["nprobe"])
        if "ef" in setting:
            params = faiss.SearchParametersHNSW(efSearch=setting["ef"])
        if "refine" in setting:
            params = faiss.IndexRefineSearchParameters(k_factor=setting["refine"], base_index_params=params)
        return self.index.search(queries, k, params=params)[1]

    def bytes(self):
        if self.index.ntotal * self.index.d > 30_000_000:
            return 0  # serialising would double the memory
        return len(faiss.serialize_index(self.index))


run(f"faiss-cpu {faiss.__version__}, {faiss.get_compile_options().strip()}", Index)
