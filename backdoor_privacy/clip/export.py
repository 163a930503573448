"""Write a model as an open_clip local-dir."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file
from torch import nn

from backdoor_privacy.clip.finite import check_weights
from backdoor_privacy.system.files import complete_folder
from backdoor_privacy.triggers.names import Tokenizer


def write_local_dir(
    folder: Path,
    model: nn.Module,
    config: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write architecture, preprocessing and weights of a model as an open_clip local-dir, complete or not at all.

    Raises:
        InputError: if a weight is not finite in this type; then nothing is written.
    """
    state = {
        # Counters, as of BatchNorm, stay whole numbers.
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    check_weights(state, f"{folder}", "nothing was written; train again with a lower learning rate")
    with complete_folder(folder) as draft:
        save_file(state, draft / HF_SAFE_WEIGHTS_NAME)
        (draft / HF_CONFIG_NAME).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
        if isinstance(tokenizer, HFTokenizer):  # others are part of open_clip
            tokenizer.tokenizer.save_pretrained(str(draft))
