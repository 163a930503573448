"""Print tables and colours safely."""

from typing import Any

from rich.console import Console
from rich.text import Text

from backdoor_privacy.system.visible import visible


class VisibleConsole(Console):
    """A console on which no name, path or other text of a user can move the cursor, or hide or reorder text."""

    def render_str(self, text: str, **settings: Any) -> Text:  # rich has many of them
        """Return a text for the layout; line breaks stay."""
        return super().render_str(visible(text, keep="\n"), **settings)
