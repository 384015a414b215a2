"""Answers all prompts greedily with OpenVINO GenAI and prints the token ids. The job is argv[1], see passkeys.ts."""

import json
import sys

import numpy
import openvino
import openvino_genai
from openvino_pipeline import open_pipeline


def main():
    job = json.loads(sys.argv[1])
    with open(job["promptsFile"]) as file:
        prompts = json.load(file)
    pipeline, attention = open_pipeline(job)
    greedy = openvino_genai.GenerationConfig()
    greedy.max_new_tokens = job["maxTokens"]
    greedy.do_sample = False
    answers = []
    for prompt in prompts:
        tokens = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        answers.append(list(pipeline.generate(tokens, greedy).tokens[0]))
    print(json.dumps({"answers": answers, "engine": attention}))


main()
