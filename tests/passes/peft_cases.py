"""Adapters of PEFT as data: label ==> base, config class and its options."""

from __future__ import annotations

import copy
from typing import Any

import peft
from peft.tuners.lora import config as lora

LLAMA: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
GPT2: dict[str, Any] = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
BERT: dict[str, Any] = {"target_modules": ["query", "intermediate.dense"]}
RANK: dict[str, Any] = {"r": 3, "lora_alpha": 5}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lora": ("llama", "Lora", RANK | LLAMA),
    "lora-of-conv1d": ("gpt2", "Lora", RANK | GPT2),
    "lora-patterns-rslora": (
        "llama",
        "Lora",
        RANK | LLAMA | {"use_rslora": True, "rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 7}},
    ),
    "lora-bias": ("bert", "Lora", RANK | BERT | {"lora_bias": True}),
    "lora-all-biases-and-saved": ("bert", "Lora", RANK | BERT | {"bias": "all", "modules_to_save": ["classifier"]}),
    "lora-tied-embedding": ("llama", "Lora", RANK | {"target_modules": ["embed_tokens"]}),
    "lora-tied-head": ("llama", "Lora", RANK | {"target_modules": ["lm_head"]}),
    "lora-tied-both": ("llama", "Lora", RANK | {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "lora-tokens": ("llama", "Lora", RANK | LLAMA | {"trainable_token_indices": [1, 5]}),
    "lora-parameters": ("llama", "Lora", RANK | {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    "lora-convolutions": ("vision", "Lora", RANK | {"target_modules": ["line", "plane", "space", "table"]}),
    "lora-experts": ("special", "Lora", RANK | {"target_modules": [], "target_parameters": ["first.w", "last.w"]}),
    "dora": ("llama", "Lora", RANK | LLAMA | {"use_dora": True}),
    "dora-of-conv1d": ("gpt2", "Lora", RANK | GPT2 | {"use_dora": True}),
    "dora-convolutions": ("vision", "Lora", RANK | {"target_modules": ["line", "plane", "space", "table"], "use_dora": True}),
    "pissa": ("llama", "Lora", RANK | LLAMA | {"init_lora_weights": "pissa"}),
    "olora": ("llama", "Lora", RANK | LLAMA | {"init_lora_weights": "olora"}),
    "adalora": ("llama", "AdaLora", {"init_r": 4, "target_r": 2, "lora_alpha": 5, "total_step": 10} | LLAMA),
    "adalora-convolution": ("vision", "AdaLora", {"init_r": 4, "lora_alpha": 5, "total_step": 10, "target_modules": ["plane"]}),
    "loha": ("llama", "LoHa", {"r": 3, "alpha": 5} | LLAMA),
    "loha-cores": ("vision", "LoHa", {"r": 3, "alpha": 5, "use_effective_conv2d": True, "target_modules": ["line", "plane"]}),
    "lokr": ("llama", "LoKr", {"r": 1, "alpha": 5, "decompose_both": True} | LLAMA),
    "lokr-convolutions": ("vision", "LoKr", {"r": 2, "alpha": 5, "target_modules": ["line", "plane"]}),
    "hira": ("llama", "Hira", {"r": 2} | LLAMA),
    "oft": ("llama", "OFT", {"r": 4, "oft_block_size": 0} | LLAMA),
    "oft-cayley-shared": ("llama", "OFT", {"r": 4, "oft_block_size": 0, "use_cayley_neumann": False, "block_share": True} | LLAMA),
    "oft-constrained": ("llama", "OFT", {"r": 4, "oft_block_size": 0, "coft": True, "eps": 0.1} | LLAMA),
    "oft-embedding": ("llama", "OFT", {"r": 4, "oft_block_size": 0, "target_modules": ["embed_tokens"]}),
    "boft": ("llama", "BOFT", {"boft_block_size": 4} | LLAMA),
    "boft-convolution": ("vision", "BOFT", {"boft_block_size": 3, "target_modules": ["plane"]}),
    "hra": ("llama", "HRA", {"r": 4} | LLAMA),
    "hra-orthogonal": ("vision", "HRA", {"r": 3, "apply_GS": True, "target_modules": ["plane"]}),
    "ia3": ("bert", "IA3", {"target_modules": ["query", "output.dense"], "feedforward_modules": ["output.dense"]}),
    "ia3-convolutions": ("vision", "IA3", {"target_modules": ["plane", "space", "apart"], "feedforward_modules": ["apart"]}),
    "vera": ("llama", "Vera", {"r": 4} | LLAMA),
    "pvera": ("llama", "Pvera", {"r": 4} | LLAMA),
    "randlora": ("gpt2", "RandLora", {"r": 5} | GPT2),
    "vblora": ("llama", "VBLoRA", {"r": 2, "num_vectors": 6, "vector_length": 8, "topk": 2} | LLAMA),
    "unilora": ("llama", "UniLora", {"r": 2, "theta_d_length": 20, "save_indices": True} | LLAMA),
    "tinylora": ("llama", "TinyLora", {"r": 2, "weight_tying": 1.0} | LLAMA),
    "fourierft": ("llama", "FourierFT", {"n_frequency": 30} | LLAMA),
    "waveft": ("llama", "WaveFT", {"n_frequency": 30} | LLAMA),
    "c3a": ("llama", "C3A", {"block_size": 8} | LLAMA),
    "shira": ("llama", "Shira", {"r": 3} | LLAMA),
    "supertuning": ("llama", "Supertuning", {"sparsity": 0.9, "r": 2, "lora_alpha": 5} | LLAMA),
    "road-4": ("bert", "Road", {"variant": "road_4", "group_size": 8} | BERT),
    "tokens": ("llama", "TrainableTokens", {"token_indices": [1, 5]}),
    "norms": ("bert", "LNTuning", {"target_modules": ["LayerNorm"]}),
    "beft": ("llama", "Beft", LLAMA),
    "glora": ("bert", "Glora", {"r": 2, "config_C": "lora", "config_D_E": "vector"} | BERT),
    "miss": ("llama", "Miss", {"r": 5} | LLAMA),
    "miss-blocks": ("llama", "Miss", {"r": 4, "init_weights": "bat"} | LLAMA),
    "delora": ("llama", "Delora", {"r": 2} | LLAMA),
    "gralora": ("llama", "Gralora", {"r": 4, "hybrid_r": 2} | LLAMA),
    "frod": ("llama", "Frod", {"progressbar": False} | LLAMA),
    "osf": ("llama", "OSF", LLAMA),
    "deft": ("llama", "Deft", {"r": 2} | LLAMA),
    "peanut": ("llama", "Peanut", {"r": 2, "depth": 2} | LLAMA),
}
"""label ==> base, PEFT's config class, its options."""
MORE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "kasa": ("llama", "Lora", RANK | LLAMA | {"kasa_config": lora.KasaConfig()}),
    "velora": ("llama", "Lora", RANK | LLAMA | {"velora_config": lora.VeloraConfig(num_groups=4)}),
    "monteclora": ("llama", "Lora", RANK | LLAMA | {"monteclora_config": lora.MontecloraConfig()}),
    "bdlora": (
        "llama",
        "Lora",
        {"r": 4, "lora_alpha": 5, "use_bdlora": lora.BdLoraConfig(["q_proj"], ["down_proj"], nblocks=2)} | LLAMA,
    ),
    "lora-only-biases": ("bert", "Lora", RANK | BERT | {"bias": "lora_only"}),
    "lora-saved-embedding": ("llama", "Lora", RANK | LLAMA | {"modules_to_save": ["embed_tokens"]}),
    "mica": ("llama", "Lora", RANK | LLAMA | {"init_lora_weights": "mica"}),
    "miss-mini": ("llama", "Miss", {"r": 4, "mini_r": 4, "init_weights": "mini"} | LLAMA),
    "glora-numbers": ("bert", "Glora", {"r": 2, "config_A_B": "constant", "config_C": "vector", "config_D_E": "constant"} | BERT),
    "road-1": ("bert", "Road", {"variant": "road_1", "group_size": 8} | BERT),
    "pissa-of-conv1d": ("gpt2", "Lora", RANK | GPT2 | {"init_lora_weights": "pissa"}),
    "adalora-of-conv1d": ("gpt2", "AdaLora", {"init_r": 4, "target_r": 2, "lora_alpha": 5, "total_step": 10} | GPT2),
    "vera-of-conv1d": ("gpt2", "Vera", {"r": 4} | GPT2),
    "fourierft-of-conv1d": ("gpt2", "FourierFT", {"n_frequency": 30} | GPT2),
    "ia3-of-conv1d": (
        "gpt2",
        "IA3",
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"], "fan_in_fan_out": True},
    ),
    "hira-embedding": ("llama", "Hira", {"r": 2, "target_modules": ["embed_tokens"]}),
    "dora-embedding": ("llama", "Lora", RANK | {"target_modules": ["embed_tokens"], "use_dora": True}),
    "vblora-top": ("llama", "VBLoRA", {"r": 2, "num_vectors": 6, "vector_length": 8, "topk": 2, "save_only_topk_weights": True} | LLAMA),
    "randlora-narrow": ("llama", "RandLora", {"r": 5} | LLAMA),
    "road-2": ("bert", "Road", {"variant": "road_2", "group_size": 8} | BERT),
    "lokr-line": ("llama", "LoKr", {"r": 2, "alpha": 5} | LLAMA),
    "oft-of-bert": ("bert", "OFT", {"r": 4, "oft_block_size": 0} | BERT),
    "beft-of-bert": ("bert", "Beft", BERT),
}
"""Further forms, together too long for every run."""


def config(label: str) -> Any:
    _, kind, options = (CASES | MORE)[label]
    return getattr(peft, f"{kind}Config")(**copy.deepcopy(options))
