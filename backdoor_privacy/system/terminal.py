"""What is printed in colours and tables."""

from typing import Any

from rich.console import Console
from rich.text import Text

from backdoor_privacy.system.visible import visible


class VisibleConsole(Console):
    """A console of which no name, path or text of a user can move the cursor, or hide or reorder what is written."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text as it is laid out; its ends of lines stay."""
        return super().render_str(visible(text, keep="\n"), **settings)
