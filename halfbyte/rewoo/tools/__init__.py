"""Tools that come with halfbyte. Those that the model card names have the card's descriptions, word for word.

`calculator` and `hyperlink_extractor` are tools; `duckduckgo()`, `text_scraper()`, `knowledge_model(model)` and
`python_function(f)` make one.
"""

from halfbyte.rewoo.tools.calculator import calculator
from halfbyte.rewoo.tools.duckduckgo import SearchResult, duckduckgo
from halfbyte.rewoo.tools.hyperlinks import find_links, hyperlink_extractor
from halfbyte.rewoo.tools.knowledge_model import knowledge_model
from halfbyte.rewoo.tools.python_function import python_function
from halfbyte.rewoo.tools.text_scraper import text_scraper

__all__ = [
    "SearchResult",
    "calculator",
    "duckduckgo",
    "find_links",
    "hyperlink_extractor",
    "knowledge_model",
    "python_function",
    "text_scraper",
]
