"""The site of these pages: `make docs` builds it, `make docs-serve` shows it.

Pages are Markdown that a plain code host shows as well. Where a page has `<!-- generated: NAME -->`,
`_generate/NAME.py` writes the rest of it at build time. Reasons: decisions/0052-docs-site.md
"""

import sys
from pathlib import Path

from pygments.lexers.special import TextLexer

sys.path.insert(0, str(Path(__file__).parent))  # where _generate is

project = "everlog"
html_title = "everlog"
html_theme = "furo"
html_show_copyright = False
smartquotes = False  # --option is no dash
html_copy_source = False
extensions = ["myst_parser", "_generate"]
exclude_patterns = ["_generate"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]


def setup(app):
    app.add_lexer("csv", TextLexer)  # Pygments has none
