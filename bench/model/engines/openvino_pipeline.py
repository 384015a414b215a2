"""How OpenVINO GenAI is set up for the measurements."""

import openvino_genai


def open_pipeline(job):
    """The pipeline, and how it attends, for the table."""
    options = job["options"]
    scheduler = openvino_genai.SchedulerConfig()
    # Prompts are different texts, but a cache of prefixes would cost time for nothing.
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = options["batch"]
    attention = "paged attention"
    if options["sparse"]:
        sparse = openvino_genai.SparseAttentionConfig(mode=openvino_genai.SparseAttentionMode.XATTENTION)
        scheduler.use_sparse_attention = True
        scheduler.sparse_attention_config = sparse
        attention = f"XAttention, threshold {sparse.xattention_threshold:.2f}"
    pipeline = openvino_genai.LLMPipeline(
        job["model"], "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=job["threads"]
    )
    return pipeline, attention
