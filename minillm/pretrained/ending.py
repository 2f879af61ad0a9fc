"""Which tokens end a text, as the model's own files say."""

from __future__ import annotations

from pathlib import Path

from minillm.data.special import end_of_text
from minillm.errors import UserError
from minillm.files import read_json
from minillm.models.adapter_files import ADAPTER_CONFIG, adapter_base
from minillm.models.folder import CONFIG_FILE, GENERATION_FILE
from minillm.pretrained import model_folder
from minillm.pretrained.gguf import is_gguf, open_gguf


def end_tokens(source: str | Path, tokenizer, revision: str | None = None) -> tuple[int, ...]:
    """The ids that end a text of the model that `source` names; none for a model that knows no end.

    Of a folder those of generation_config.json, else of config.json, else of the model that it is an adapter of, else the
    tokenizer's own; of a GGUF file its end of text, of turn and of message; of a llama2.c file both of its control tokens,
    since one story is followed by the beginning of the next. Raises UserError for a file that names something else than ids.
    """
    path = Path(source)
    if path.is_file():
        if not is_gguf(path):
            return (tokenizer.bos, tokenizer.eos)
        file = open_gguf(path)
        keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
        return tuple(sorted({file.setting(key, int) for key in keys if key in file.settings}))
    folder = model_folder(source, revision)
    for name in (GENERATION_FILE, CONFIG_FILE):
        ids = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        if ids is None:
            continue
        ids = tuple(ids) if isinstance(ids, list) else (ids,)
        if not all(type(index) is int for index in ids):
            raise UserError(f"{folder / name}: eos_token_id is {ids}, expected whole numbers")
        return ids
    if (folder / ADAPTER_CONFIG).is_file():
        return end_tokens(adapter_base(folder), tokenizer)
    return tuple(sorted(end_of_text(tokenizer).values()))
