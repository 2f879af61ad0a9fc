"""Who writes in benchmarks/generate.py: minillm, transformers and llama.cpp, each reading a prompt and writing greedily.

contestant.read(prompt)     ids (B, T)  ->  the next token of each text; what was read before is forgotten
contestant.step(token)      that  ->  the token after it
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minillm.backend.threads import cores
from minillm.generation.decoder import Decoder
from minillm.pretrained.export import export


def contestants(model, folder: Path, texts: int, context: int) -> dict:
    """Who is installed and takes so many texts; says which others an extra brings. context: the longest text."""
    found = {"minillm": Minillm(model)}
    for name, extra, make in (
        ("transformers", "test-peers", lambda: Transformers(folder)),
        ("llama.cpp", "test-llama-cpp", lambda: LlamaCpp(model, folder, context)),
    ):
        if name == "llama.cpp" and texts > 1:
            continue
        try:
            found[name] = make()
        except ImportError:
            print(f'{name} is not installed: pip install "minillm[{extra}]" brings the comparison')
    return found


class Minillm:
    """Greedy decoding with minillm."""

    def __init__(self, model):
        self.model = model

    def read(self, prompt):
        self.decoder = Decoder(self.model)
        return self.decoder.read(prompt).argmax(axis=-1)

    def step(self, token):
        return self.decoder.read(token[:, None]).argmax(axis=-1)


class Transformers:
    """Greedy decoding with transformers: its model and its cache, without the bookkeeping of its generate()."""

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(cores())
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def read(self, prompt):
        self.cache = None
        return self._forward(self.torch.from_numpy(prompt))

    def step(self, token):
        return self._forward(token)

    def _forward(self, ids):
        with self.torch.inference_mode():
            output = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.cache = output.past_key_values
            return output.logits[:, -1].argmax(dim=-1, keepdim=True)


class LlamaCpp:
    """Greedy decoding of one text with llama.cpp on an F32 file, by the calls that its own generate() makes."""

    def __init__(self, model, folder: Path, context: int):
        import llama_cpp

        path = folder / "f32.gguf"
        if not path.exists():
            export(model, path, "f32")
        self.library = llama_cpp
        threads = dict(n_threads=cores(), n_threads_batch=cores())
        self.model = llama_cpp.Llama(str(path), n_ctx=context, verbose=False, **threads)

    def read(self, prompt):
        self.model.reset()
        return self._forward(prompt[0].tolist())

    def step(self, token):
        return self._forward(token)

    def _forward(self, ids):
        self.model.eval(ids)
        logits = self.library.llama_get_logits_ith(self.model.ctx, -1)  # of the last token
        return [int(np.ctypeslib.as_array(logits, (self.model.n_vocab(),)).argmax())]
