"""Makes the reference fixtures with PyTorch and transformers. See README.md for the format and the commands."""

import argparse
import hashlib
import json
import math
import shutil
import time
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

FIXTURES = Path(__file__).parent / "fixtures"
END = 127  # token id of <|end|> in the tiny tokenizer

# --- tiny models -----------------------------------------------------------------------------------------------------

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "vocab_size": 128,
    "bos_token_id": 1,
    "eos_token_id": END,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
GQA = {**LLAMA, "num_key_value_heads": 2}
# Sixteen dimensions a head, so that a RoPE scaling that treats fast and slow frequencies apart has some of each.
ROPE = {**LLAMA, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48, "rope_theta": 10000.0}
MISTRAL = {**GQA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "rope_theta": 10000.0}
QWEN2 = {**GQA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1e6}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16, "attention_bias": False}
NO_SCALING = {"rope_scaling": None}


def case(name, covers, config, without=None, **options):
    """`without` changes the config so that the feature under test is gone: the logits must then differ."""
    return {"name": name, "covers": covers, "config": config, "without": without, **options}


CASES = [
    case(
        "llama-mha",
        "Llama 1 and 2: as many key heads as query heads (no num_key_value_heads), separate output embedding",
        {**LLAMA, "rms_norm_eps": 1e-6, "pretraining_tp": 1},
        {"rope_theta": 500.0},
    ),
    case(
        "llama-smollm2",
        "SmolLM2: grouped queries, tied embeddings, large rope_theta",
        {
            **LLAMA,
            "hidden_size": 48,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "rope_theta": 100000,
            "rope_scaling": None,
            "rope_interleaved": False,
            "is_llama_config": True,
            "tie_word_embeddings": True,
        },
        {"rope_theta": 10000},
    ),
    case(
        "llama-odd-sizes",
        "one key head, sizes that are no multiple of anything, a vocabulary larger than the tokenizer's",
        {
            **LLAMA,
            "hidden_size": 40,
            "intermediate_size": 52,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "vocab_size": 131,
            "head_dim": 10,
        },
    ),
    case(
        "llama-bias",
        "attention_bias and mlp_bias",
        {**GQA, "attention_bias": True, "mlp_bias": True},
        zero=".bias",
    ),
    case("llama-f16", "weights stored as F16", {**GQA, "torch_dtype": "float16"}, dtype=torch.float16),
    case(
        "llama-bf16-shards",
        "weights stored as BF16 in shards",
        {**GQA, "torch_dtype": "bfloat16"},
        dtype=torch.bfloat16,
        shard_size=20_000,
    ),
    case(
        "llama3-rope-llama3",
        "Llama 3.1: grouped queries, RoPE scaling llama3 (frequencies of all three bands)",
        {
            **ROPE,
            "max_position_embeddings": 512,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        NO_SCALING,
    ),
    case(
        "llama3-rope-parameters",
        "the same scaling as transformers 5 writes it: rope_parameters, with rope_theta inside",
        {
            **{key: value for key, value in ROPE.items() if key not in ("rope_theta", "torch_dtype")},
            "dtype": "float32",
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 50000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 2.0,
                "original_max_position_embeddings": 128,
            },
        },
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}},
    ),
    case(
        "vicuna-rope-linear",
        "Vicuna 16k: linear scaling under its old key `type`, max_position_embeddings before scaling",
        {**LLAMA, "max_position_embeddings": 64, "rope_scaling": {"factor": 4.0, "type": "linear"}},
        NO_SCALING,
    ),
    case(
        "llama-rope-default",
        "rope_scaling that says default",
        {**ROPE, "rope_scaling": {"rope_type": "default"}},
    ),
    case(
        "llama-rope-dynamic",
        "dynamic NTK scaling: `short` within max_position_embeddings, `long` beyond",
        {**ROPE, "max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
        NO_SCALING,
        greedy=False,
    ),
    case(
        "llama-rope-yarn",
        "yarn with defaults: attention factor from the scaling factor",
        {
            **ROPE,
            "max_position_embeddings": 256,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
        NO_SCALING,
    ),
    case(
        "llama-rope-yarn-attention-factor",
        "yarn with attention_factor, original length absent (then it is max_position_embeddings)",
        {
            **ROPE,
            "max_position_embeddings": 64,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5},
        },
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ),
    case(
        "llama-rope-yarn-mscale",
        "yarn with mscale, mscale_all_dim, beta_fast and beta_slow",
        {
            **ROPE,
            "max_position_embeddings": 512,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "mscale": 2.0,
                "mscale_all_dim": 0.5,
                "beta_fast": 16,
                "beta_slow": 2,
            },
        },
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 16,
                "beta_slow": 2,
            }
        },
    ),
    case(
        "llama-rope-yarn-no-truncate",
        "yarn whose correction range is not rounded to whole dimensions",
        {
            **ROPE,
            "max_position_embeddings": 256,
            "rope_theta": 1000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 4,
                "truncate": False,
            },
        },
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 4,
            }
        },
    ),
    case(
        "mistral-window",
        "Mistral 0.1: every layer sees the last 24 tokens only",
        {**MISTRAL, "sliding_window": 24},
        {"sliding_window": None},
    ),
    case(
        "mistral-full",
        "Mistral 0.3 and Nemo: sliding_window null, head_dim that is not hidden_size / heads",
        {**MISTRAL, "sliding_window": None, "head_dim": 12, "rope_theta": 1e6},
        {"sliding_window": 24},
    ),
    case(
        "qwen2",
        "Qwen2: biases on q, k and v, tied embeddings, a sliding window that is switched off",
        {
            **QWEN2,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 20,
            "max_window_layers": 1,
        },
        {"use_sliding_window": True},
    ),
    case(
        "qwen2-window",
        "Qwen2 with use_sliding_window: layers from max_window_layers on see 20 tokens",
        {
            **QWEN2,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 20,
            "max_window_layers": 1,
        },
        {"max_window_layers": 2},
    ),
    case(
        "qwen2-layer-types",
        "Qwen2 with layer_types: sliding, full, sliding",
        {
            **QWEN2,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 20,
            "max_window_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
    ),
    case(
        "qwen2-rope-yarn",
        "Qwen2.5's long-context setting: yarn under the old key `type`",
        {
            **QWEN2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 10000.0,
            "max_position_embeddings": 64,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
        NO_SCALING,
    ),
    case(
        "qwen3",
        "Qwen3: normalised q and k, head_dim that is not hidden_size / heads, tied embeddings",
        {**QWEN3, "tie_word_embeddings": True},
        ones="_norm.weight",
    ),
    case(
        "qwen3-bias-window",
        "Qwen3 with attention_bias and sliding windows, config.json as transformers 5 writes it",
        {
            **QWEN3,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 20,
            "max_window_layers": 1,
        },
        {"max_window_layers": 2},
        saved_config=True,
    ),
]


def load_config(config):
    values = json.loads(json.dumps(config))
    return AutoConfig.for_model(values.pop("model_type"), **values)


def build(config):
    model = AutoModelForCausalLM.from_config(load_config(config), attn_implementation="eager")
    return model.float().eval()


@torch.no_grad()
def randomise(model, seed):
    """Weights that give peaked and flat attention, and logits of about +-6."""
    generator = torch.Generator().manual_seed(seed)
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name:
            value = (0.4 if tied else 1.0) * noise
        else:
            gain = 2.0 if any(part in name for part in ("q_proj", "k_proj", "lm_head")) else 1.2
            value = gain * noise / math.sqrt(parameter.shape[1])
        parameter.copy_(value)


@torch.no_grad()
def logits_of(model, tokens):
    """Logits of every position, [n, vocab]. Dynamic RoPE keeps state between calls, so `model` must be fresh for it."""
    return model(input_ids=tokens[None], use_cache=False).logits[0]


def greedy_without_cache(model, tokens, count):
    """`count` following tokens and the smallest lead of the best logit over the second."""
    start = len(tokens)
    margin = math.inf
    for _ in range(count):
        best = logits_of(model, tokens)[-1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        tokens = torch.cat([tokens, best.indices[:1]])
    return tokens[start:], margin


def tiny_prompts(spec, weights):
    """One prompt within and one beyond every window, with a greedy continuation that no rounding can change."""

    def fresh():
        model = build(spec["config"])
        model.load_state_dict(weights)
        return model

    tensors, listed = {}, []
    for name, length in (("short", 16), ("long", 150)):
        for attempt in range(1000):
            seed = zlib.crc32(f"{spec['name']} {name} {attempt}".encode())
            tokens = torch.randint(0, END, (length,), generator=torch.Generator().manual_seed(seed))
            entry = {"name": name, "tokens": length}
            if not spec.get("greedy", True):
                break
            following, margin = greedy_without_cache(fresh(), tokens, 24)
            entry["greedyMargin"] = round(margin, 4)
            if margin >= 0.03 and END not in following:
                tensors[f"{name}.greedy"] = following.int()
                break
        else:
            raise SystemExit(f"{spec['name']}: no prompt with a clear greedy continuation")
        edges = [0, 1, 19, 20, 23, 24, 63, 64, 65, 90, 105, 120, 127, 128, 129, 147, 148, 149]
        rows = torch.tensor(edges if length == 150 else range(length))
        logits = logits_of(fresh(), tokens)
        tensors[f"{name}.tokens"] = tokens.int()
        tensors[f"{name}.rows"] = rows.int()
        tensors[f"{name}.logits"] = logits[rows].contiguous()
        listed.append(entry)
    return tensors, listed


def sensitivity(spec, weights, tensors):
    """Largest change of an expected logit when the feature the case is about is taken away."""
    changed = dict(weights)
    if "zero" in spec:
        changed = {k: v * 0 if k.endswith(spec["zero"]) else v for k, v in weights.items()}
    elif "ones" in spec:
        keep = ("input_layernorm", "post_attention")
        changed = {
            k: v / v if k.endswith(spec["ones"]) and not any(part in k for part in keep) else v
            for k, v in weights.items()
        }
    elif spec["without"] is None:
        return None
    model = build({**spec["config"], **(spec["without"] or {})})
    model.load_state_dict(changed)
    logits = logits_of(model, tensors["long.tokens"].long())[tensors["long.rows"].long()]
    return round((logits - tensors["long.logits"]).abs().max().item(), 4)


def write_tiny_tokenizer(folder):
    """Byte-level BPE without merges over ASCII: the token id is the byte."""
    # GPT-2's printable stand-ins for bytes: printable ASCII stands for itself, the rest for 256 and up in order.
    printable = set(range(ord("!"), ord("~") + 1))
    vocab, hidden = {}, 0
    for byte in range(END):
        if byte in printable:
            vocab[chr(byte)] = byte
        else:
            vocab[chr(256 + hidden)] = byte
            hidden += 1
    end = {"id": END, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**end, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab, "merges": []},
    }
    # Compact: there are two dozen copies of it.
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, separators=(",", ":")) + "\n")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def make_tiny(only):
    root = FIXTURES / "tiny"
    index = []
    for spec in CASES:
        if only and spec["name"] not in only:
            continue
        folder = root / spec["name"]
        shutil.rmtree(folder, ignore_errors=True)
        model = build(spec["config"])
        randomise(model, zlib.crc32(spec["name"].encode()))
        # What is stored is what is evaluated: rounded to the stored dtype, computed in float32.
        model.to(spec.get("dtype", torch.float32))
        model.save_pretrained(folder, max_shard_size=spec.get("shard_size", 10**9))
        (folder / "generation_config.json").unlink(missing_ok=True)
        if not spec.get("saved_config"):
            (folder / "config.json").write_text(json.dumps(spec["config"], indent=2) + "\n")
        weights = {name: value.float() for name, value in model.state_dict().items()}
        write_tiny_tokenizer(folder)

        tensors, listed = tiny_prompts(spec, weights)
        save_file(tensors, folder / "expected.safetensors")
        # The folder as written, read the way a user would, must give the same logits.
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        error = (logits_of(again, tensors["long.tokens"].long())[tensors["long.rows"].long()] - tensors["long.logits"]).abs()
        assert error.max() < 1e-5, f"{spec['name']}: the saved folder gives other logits ({error.max()})"
        assert AutoTokenizer.from_pretrained(folder).encode("A b\n") == [65, 32, 98, 10]
        # How much of the tolerance float32 itself uses up.
        exact = logits_of(again.double(), tensors["long.tokens"].long())[tensors["long.rows"].long()]
        rounding = (exact - tensors["long.logits"]).abs().max().item()
        assert rounding < 2e-4, f"{spec['name']}: badly conditioned, float32 is off by {rounding}"
        entry = {"name": spec["name"], "covers": spec["covers"], "prompts": listed}
        change = sensitivity(spec, weights, tensors)
        if change is not None:
            assert change > 0.05, f"{spec['name']}: the logits do not show the feature ({change})"
            entry["sensitivity"] = change
        size = sum(file.stat().st_size for file in folder.iterdir())
        largest = tensors["long.logits"].abs().max().item()
        print(f"{spec['name']:34} {size / 1024:6.0f} KB  largest logit {largest:5.1f}  rounding {rounding:.1e}  change {change}")
        index.append(entry)
    if not only:
        (root / "index.json").write_text(json.dumps({"version": 1, "cases": index}, indent=2) + "\n")


# --- the default model -----------------------------------------------------------------------------------------------

CORPUS = Path(__file__).parents[2] / "docs" / "corpus"
PROMPTS = {"short": ("esther.txt", 16), "medium": ("sqlite-file-format.txt", 512), "long": ("genesis.txt", 4096)}

# Raw prompts continue a text; chat prompts go through the model's template. Each passage is the beginning of a document.
GREEDY = [
    {"text": "Once upon a time, in a small village by the sea, there lived"},
    {"text": "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n"},
    {"document": "genesis.txt", "characters": 3000},
    {"chat": "Explain in three sentences why the sky is blue."},
    {"chat": "Here is a text. Summarise it.\n\n", "document": "esther.txt", "characters": 6000},
    {"document": "sqlite-file-format.txt", "characters": 2500},
    {"chat": "Write a short letter to a friend about a journey through the mountains."},
    {"chat": "What is a hash table, and what is it good for?"},
    {"document": "stb_ds.h.txt", "characters": 4000},
]


def open_model(folder, attention="sdpa"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def encode(tokenizer, text):
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False))


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@torch.no_grad()
def hidden_states(model, tokens):
    """Output of the final norm, [n, hidden]: the head is applied in blocks, for n x vocabulary does not fit."""
    return model.model(input_ids=tokens[None], use_cache=False).last_hidden_state[0]


@torch.no_grad()
def heads(model, states, block=256):
    """Logits in blocks of rows: yields (first row, [rows, vocab])."""
    for start in range(0, len(states), block):
        yield start, model.lm_head(states[start : start + block])


@torch.no_grad()
def greedy_with_cache(model, tokens, count):
    """`count` following tokens and the smallest lead of the best logit over the second."""
    output, following, margin = model(input_ids=tokens[None], logits_to_keep=1), [], math.inf
    while True:
        best = output.logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        following.append(best.indices[0].item())
        if len(following) == count:
            return torch.tensor(following), margin
        output = model(input_ids=best.indices[None, :1], past_key_values=output.past_key_values, use_cache=True)


def greedy_prompt(tokenizer, spec):
    text = spec.get("text") or spec.get("chat", "")
    if "document" in spec:
        text += (CORPUS / spec["document"]).read_text()[: spec["characters"]]
    if "chat" in spec:
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return encode(tokenizer, text)


def make_model(folder):
    model, tokenizer = open_model(folder)
    end_tokens = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")}
    tensors, index = {}, {"version": 1, "weights": sha256(folder / "model.safetensors"), "prompts": [], "greedy": []}
    for name, (document, length) in PROMPTS.items():
        tokens = encode(tokenizer, (CORPUS / document).read_text())[:length]
        # Spread over the prompt, with both sides of a 512-token chunk boundary.
        rows = sorted({round(i * (length - 1) / 29) for i in range(30)} | {r for r in (511, 512) if r < length})
        rows = torch.tensor(rows)
        states = hidden_states(model, tokens)
        best, margin, ids, values, total, last = [], [], [], [], [], None
        for start, logits in heads(model, states):
            top = logits.topk(2)
            best.append(top.indices[:, 0])
            margin.append(top.values[:, 0] - top.values[:, 1])
            chosen = logits[rows[(rows >= start) & (rows < start + len(logits))] - start]
            top = chosen.topk(20)
            ids.append(top.indices)
            values.append(top.values)
            total.append(chosen.logsumexp(-1))
            last = logits[-1]
        tensors[f"{name}.tokens"] = tokens.int()
        tensors[f"{name}.last"] = last.clone()
        tensors[f"{name}.rows"] = rows.int()
        tensors[f"{name}.topIds"] = torch.cat(ids).int()
        tensors[f"{name}.topLogits"] = torch.cat(values)
        tensors[f"{name}.logSumExp"] = torch.cat(total)
        tensors[f"{name}.best"] = torch.cat(best).int()
        tensors[f"{name}.margin"] = torch.cat(margin)
        index["prompts"].append({"name": name, "tokens": length, "document": document})
        print(name, length, "tokens, largest logits", tensors[f"{name}.topLogits"][-1, :3].tolist())

    for spec in GREEDY:
        if len(index["greedy"]) == 5:
            break
        tokens = greedy_prompt(tokenizer, spec)
        following, margin = greedy_with_cache(model, tokens, 64)
        text = tokenizer.decode(following)
        usable = margin >= 0.02 and not end_tokens & set(following.tolist())
        print("greedy", len(tokens), "tokens, margin", round(margin, 4), "" if usable else "(not used)", repr(text))
        if not usable:
            continue
        name = f"greedy{len(index['greedy'])}"
        tensors[f"{name}.tokens"] = tokens.int()
        tensors[f"{name}.greedy"] = following.int()
        index["greedy"].append({"name": name, "prompt": spec, "tokens": len(tokens), "margin": round(margin, 4), "text": text})
    assert len(index["greedy"]) == 5, "too few prompts with a clear greedy continuation"
    target = FIXTURES / "smollm2-135m-instruct"
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "expected.safetensors")
    (target / "index.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n")


def make_perplexity(folder, documents, context):
    model, tokenizer = open_model(folder)
    report = {"version": 1, "weights": sha256(folder / "model.safetensors"), "context": context, "documents": []}
    for document in documents:
        tokens = encode(tokenizer, document.read_text())
        windows, losses = [], []
        for start in range(0, len(tokens) - context + 1, context):
            began = time.monotonic()
            window = tokens[start : start + context]
            first = context // 2
            states = hidden_states(model, window)[first:-1]
            targets = window[first + 1 :]
            loss = torch.cat(
                [
                    torch.nn.functional.cross_entropy(logits, targets[row : row + len(logits)], reduction="none")
                    for row, logits in heads(model, states)
                ]
            ).double()
            losses.append(loss)
            windows.append({"negativeLogLikelihood": round(loss.sum().item(), 4), "tokens": len(loss)})
            print(document.name, len(windows), f"{loss.mean().exp():.4f}", f"{time.monotonic() - began:.0f} s", flush=True)
        loss = torch.cat(losses)
        perplexity = loss.mean().exp().item()
        report["documents"].append(
            {
                "file": document.name,
                "sha256": sha256(document),
                "documentTokens": len(tokens),
                "perplexity": round(perplexity, 5),
                "standardError": round(perplexity * loss.std().item() / math.sqrt(len(loss)), 5),
                "tokens": len(loss),
                "windows": windows,
            }
        )
    target = FIXTURES / "smollm2-135m-instruct"
    target.mkdir(parents=True, exist_ok=True)
    (target / "perplexity.json").write_text(json.dumps(report, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    commands = parser.add_subparsers(dest="command", required=True)
    tiny = commands.add_parser("tiny", help="tiny random models of every family")
    tiny.add_argument("--only", nargs="*", help="make these cases only and leave index.json alone")
    model = commands.add_parser("model", help="the default model: logits and greedy continuations")
    model.add_argument("folder", type=Path)
    perplexity = commands.add_parser("perplexity", help="the default model: perplexity of whole documents")
    perplexity.add_argument("folder", type=Path)
    perplexity.add_argument("documents", type=Path, nargs="+")
    perplexity.add_argument("--context", type=int, default=8192)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.command == "tiny":
        make_tiny(arguments.only)
    elif arguments.command == "model":
        make_model(arguments.folder)
    else:
        make_perplexity(arguments.folder, arguments.documents, arguments.context)


if __name__ == "__main__":
    main()
