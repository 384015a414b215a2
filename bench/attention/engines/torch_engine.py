"""Causal attention with PyTorch's scaled_dot_product_attention. The job is argv[1], see job.ts."""

import json
import sys
import time

import numpy
import torch


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    name = job["options"]["dtype"]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[name]
    n, decode = job["n"], job["decode"]

    def read(file, heads):
        """`[1, heads, n, headDim]`"""
        shape = (n, heads, job["headDim"])
        numbers = numpy.fromfile(file, dtype="<f4", count=shape[0] * shape[1] * shape[2]).reshape(shape)
        return torch.from_numpy(numbers).transpose(0, 1).contiguous()[None].to(dtype)

    def attend(q, k, v, causal):
        start = time.perf_counter()
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        return out, (time.perf_counter() - start) * 1000

    def decode_ms(q, k, v):
        total = 0
        for row in range(n - decode, n):
            total += attend(q[:, :, row : row + 1], k[:, :, : row + 1], v[:, :, : row + 1], False)[1]
        return total / decode

    outputs, layers = [], []
    with torch.inference_mode():
        for files in job["layers"]:
            q, k, v = read(files["q"], job["heads"]), read(files["k"], job["kvHeads"]), read(files["v"], job["kvHeads"])
            warm = min(n, 1024)
            attend(q[:, :, :warm], k[:, :, :warm], v[:, :, :warm], True)
            passes = [attend(q, k, v, True) for _ in range(job["passes"])]
            figure = {"ms": min(ms for _, ms in passes), "retainedMass": 1, "tilesRead": 1}
            if decode > 0:
                figure["decodeMs"] = decode_ms(q, k, v)
            layers.append(figure)
            outputs.append(passes[-1][0][0, :, job["rows"]].transpose(0, 1).float().numpy())
    numpy.stack(outputs).astype("<f4").tofile(job["output"])
    engine = f"PyTorch {torch.__version__}, SDPA, {name}, {torch.backends.cpu.get_cpu_capability()}"
    print(json.dumps({"layers": layers, "engine": engine}))


main()
