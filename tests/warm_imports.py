"""What `tests.warm` imports before it forks: the libraries, and what a run needs of vpgt."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported

import llm_llama.adapter
import llm_opt.adapter
import llm_t5.adapter
import torch
import vpg_qformer.adapter
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, Blip2ForConditionalGeneration

import vpgtrans_core.cli.main
import vpgtrans_core.run.run
import vpgtrans_core.vlm.captioning

torch.set_num_threads(1)
LOADED = (
    AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, Blip2ForConditionalGeneration, llm_llama, llm_opt,
    llm_t5, vpg_qformer, vpgtrans_core,
)  # fmt: skip
