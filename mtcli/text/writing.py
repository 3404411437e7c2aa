"""How text is written: what can be seen of it, what looks the same, what has letters, which scripts have no spaces."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

# Chinese and Japanese; and with them all scripts without spaces between words.
IDEOGRAPHS = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
SCRIPTS = {
    "ja": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "zh": IDEOGRAPHS,
    "th": "\u0e00-\u0e7f",
    "lo": "\u0e80-\u0eff",
    "bo": "\u0f00-\u0fff",
    "my": "\u1000-\u109f",
    "km": "\u1780-\u17ff",
}
UNSPACED = re.compile(f"[{''.join(SCRIPTS.values())}]")
ALONE = re.compile(f"{UNSPACED.pattern[:-1]}\u3001-\u303f\uff01-\uffee]")  # and their punctuation

# Controls (Cc) and format characters (Cf) that show nothing and that no script needs. Needed are the (non-)joiners, the
# tags in the flags of emoji, and what joins hieroglyphs; some of Cf are signs of Arabic, Syriac and Kaithi.
DROPPED = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
)
_DROPPED = re.compile(f"[{DROPPED}]")
_FORMAT = (
    r"\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u200c\u200d\U000110bd\U000110cd\U00013430-\U0001343f"
    r"\U000e0020-\U000e007f"
)
_FILLERS = r"\u034f\u115f\u1160\u2800\u3164\ufe00-\ufe0f\uffa0"  # letters and marks without a shape
_VISIBLE = re.compile(rf"[^\s{DROPPED}{_FORMAT}{_FILLERS}]")

# Languages that need something of their own, by ISO 639-1; with their other codes, wrong codes and names.
LANGUAGES = {
    "zh": "zho chi cmn lzh yue wuu nan hak gan cn chn chinese mandarin cantonese putonghua 中文 汉语 漢語",
    "ja": "jpn jp jap japanese nihongo 日本語",
    "ko": "kor kr korean 한국어",
    "th": "tha thai ไทย",
    "lo": "lao laotian",
    "bo": "bod tib dz dzo tibetan dzongkha",
    "my": "mya bur mm burmese myanmar",
    "km": "khm kh khmer cambodian",
    "tr": "tur turkish türkçe",
    "az": "aze azj azb azerbaijani azeri",
}
_CODES = {name: code for code, names in LANGUAGES.items() for name in (code, *names.split())}


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: it is white space, controls and format characters, or empty."""
    return not _VISIBLE.search(text)


def has_letter(text: str) -> bool:
    """Whether a text has a letter of any script, and not only numbers, punctuation, emoji and other symbols."""
    return any(map(str.isalpha, text))


def clean(text: str, drop_invisible: bool = True) -> str:
    """One text for all that look the same: NFC, one space for each run of white space, none at the ends.

    ``drop_invisible`` leaves out what shows nothing, for a text that is read; who writes may need it.
    """
    if drop_invisible:
        text = _DROPPED.sub("", text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_turkic(language: str | None) -> bool:
    """Whether i and ı are two letters, whose capitals are İ and I."""
    return language_code(language) in ("tr", "az")


def language_code(language: str | None) -> str:
    """ISO 639-1 of a language in LANGUAGES, by any of its codes and names: zh-CN, zho_Hans, Simplified Chinese, cn.

    Of another one what it begins with, in lower case.
    """
    words = re.findall(r"[^\W\d_]+", (language or "").lower()) or [""]
    # After the first word, a short one is a country or a script: mn-CN is Mongolian.
    known = [word for word in words[:1] + [w for w in words if len(w) > 3] if word in _CODES]
    return _CODES[known[0]] if known else words[0]


def unspaced_language(texts: Iterable[str]) -> str | None:
    """The code of a language that is written without spaces, if most letters of the texts are in its script."""
    counts: Counter[str] = Counter()
    for text in texts:
        for code, letters in SCRIPTS.items():
            counts[code] += len(re.findall(f"[{letters}]", text))
        counts["spaced"] += sum(map(str.isalpha, UNSPACED.sub("", text)))
    # Some syllables tell Japanese from Chinese; ideographs alone do not.
    if counts["ja"] * 20 < counts["zh"]:
        counts["ja"] = 0
    elif counts["ja"]:
        counts["ja"] = counts["zh"]
    code, number = counts.most_common(1)[0] if counts else ("spaced", 0)
    return code if number and code != "spaced" else None
