"""Find the package's own files."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# The checkout keeps `conf/` at its top level; an installed wheel carries it inside the package.
CONFIG_FOLDER = next(
    (folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir()), _PACKAGE / "conf"
)
ASSETS_FOLDER = _PACKAGE / "assets"
