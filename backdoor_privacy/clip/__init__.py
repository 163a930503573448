"""Load a CLIP, embed texts and photos with it, save a defended one."""

from backdoor_privacy.clip.loading import embedded_clip, load_clip, wrap_clip
from backdoor_privacy.clip.model import Clip

__all__ = ["Clip", "embedded_clip", "load_clip", "wrap_clip"]
