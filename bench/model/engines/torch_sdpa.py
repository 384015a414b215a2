"""One measurement with PyTorch's scaled_dot_product_attention through transformers. The job is argv[1], see job.ts."""

import json
import resource
import sys
import time

import torch
import transformers

WARM_UP_TOKENS = 64


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    with open(job["tokensFile"], "rb") as file:
        tokens = torch.frombuffer(bytearray(file.read()), dtype=torch.int32).long()[None]
    config = transformers.AutoConfig.from_pretrained(job["model"])
    window = config.max_position_embeddings
    total = job["length"] + job["decode"]
    if total > window:
        # As the package does it: YaRN, as far as the prompt and the answer need.
        config.rope_parameters = {
            **config.rope_parameters,
            "rope_type": "yarn",
            "factor": total / window,
            "original_max_position_embeddings": window,
        }
        config.max_position_embeddings = total
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[job["options"]["dtype"]]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["model"], config=config, dtype=dtype, attn_implementation="sdpa"
    ).eval()

    def generate(prompt, count):
        """Token ids, milliseconds to the first, milliseconds for the rest."""
        start = time.perf_counter()
        output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        ids = [token.item()]
        first = time.perf_counter()
        while len(ids) < count:
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
            token = output.logits[:, -1].argmax(-1, keepdim=True)
            ids.append(token.item())
        return ids, (first - start) * 1000, (time.perf_counter() - first) * 1000

    with torch.inference_mode():
        generate(tokens[:, -WARM_UP_TOKENS:], 3)
        generated, prefill, decode = generate(tokens[:, : job["length"]], job["decode"])
    result = {
        "prefillMs": prefill,
        "decodeMs": decode,
        "generated": generated,
        "engine": f"PyTorch {torch.__version__}, SDPA, {job['options']['dtype']}, {torch.backends.cpu.get_cpu_capability()}",
        "peakRssBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


main()
