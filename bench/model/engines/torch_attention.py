"""Dense causal attention of one layer with PyTorch's scaled_dot_product_attention. The job is argv[1]."""

import json
import sys
import time

import torch


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[job["options"]["dtype"]]

    def random(heads):
        return torch.randn(1, heads, job["attentionTokens"], job["headDim"], dtype=dtype)

    q, k, v = random(job["heads"]), random(job["kvHeads"]), random(job["kvHeads"])

    def once():
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return (time.perf_counter() - start) * 1000

    with torch.inference_mode():
        once()
        print(json.dumps({"ms": min(once() for _ in range(3))}))


main()
