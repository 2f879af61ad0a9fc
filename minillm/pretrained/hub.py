"""Models by name from the Hugging Face hub.

Needs the extra `hub`; a folder on the disk needs neither it nor a network.
"""

from __future__ import annotations

import re
from pathlib import Path

from minillm.errors import MissingExtra, UserError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = [  # no pickles, no programs
    "*.json",
    "*.safetensors",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "merges.txt",
    "vocab.bpe",
    "tokenizer.model",
    "*.tiktoken",
]


def looks_like_hub_name(name: str) -> bool:
    """Whether a text that is no folder could name a model on the hub, "owner/model".

    "runs/default-9" next to a folder "runs" is a mistyped path: the hub is not contacted.
    """
    return HUB_NAME.fullmatch(name) is not None and ".." not in name and not Path(name.partition("/")[0]).is_dir()


def fetch_from_hub(name: str, revision: str | None = None) -> Path:
    """The folder of a model's files, downloaded if they are not in the local cache already.

    revision: a branch, a tag, or, to always get the same files, a commit. Raises MissingExtra
    without huggingface_hub, and UserError where the name is unknown or the hub cannot be reached.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        feature = f"{name} is not a folder, and to fetch it from the Hugging Face hub"
        raise MissingExtra(feature, "huggingface_hub", "hub") from None
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=WANTED))
    except errors.GatedRepoError:
        raise UserError(f'"{name}" needs its licence to be accepted on the hub, and a login: hf auth login') from None
    except errors.RevisionNotFoundError:
        raise UserError(f'"{name}" has no revision "{revision}" on the Hugging Face hub') from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name} is not a folder, and not a model on the Hugging Face hub") from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{name} is not a folder, and the Hugging Face hub cannot be reached ({type(error).__name__}): fetch it where "
            f"there is a network (hf download {name} --local-dir FOLDER), and name that folder"
        ) from None
