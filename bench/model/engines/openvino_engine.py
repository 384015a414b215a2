"""One measurement with OpenVINO GenAI: LLMPipeline on the GGUF file, paged attention. The job is argv[1], see job.ts."""

import json
import os
import resource
import sys
import time

import numpy
import openvino
import openvino_genai
from openvino_pipeline import open_pipeline

WARM_UP_TOKENS = 64


class Clock(openvino_genai.StreamerBase):
    """Notes when tokens come."""

    def __init__(self):
        super().__init__()
        self.stamps = []

    def write(self, tokens):
        count = len(tokens) if isinstance(tokens, list) else 1
        self.stamps += [time.perf_counter()] * count
        return openvino_genai.StreamingStatus.RUNNING

    def end(self):
        pass


def main():
    job = json.loads(sys.argv[1])
    options = job["options"]
    tokens = numpy.fromfile(job["tokensFile"], dtype="<u4").astype(numpy.int64)[None]
    pipeline, attention = open_pipeline(job)

    def generate(prompt, count, clock):
        greedy = openvino_genai.GenerationConfig()
        greedy.max_new_tokens = count
        greedy.ignore_eos = True
        greedy.do_sample = False
        return pipeline.generate(openvino.Tensor(numpy.ascontiguousarray(prompt)), greedy, clock).tokens[0]

    generate(tokens[:, -WARM_UP_TOKENS:], 3, Clock())
    clock = Clock()
    start = time.perf_counter()
    generated = generate(tokens[:, : job["length"]], job["decode"], clock)
    core = openvino.Core()
    precision = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    held = os.environ.get("OV_CPU_MAX_ISA")
    result = {
        "prefillMs": (clock.stamps[0] - start) * 1000,
        "decodeMs": (clock.stamps[-1] - clock.stamps[0]) * 1000,
        "generated": list(generated),
        "engine": f"OpenVINO GenAI {openvino_genai.__version__}, {attention}, batch {options['batch']}, inference precision {precision}"
        + (f", held to {held}" if held else ""),
        "peakRssBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


main()
