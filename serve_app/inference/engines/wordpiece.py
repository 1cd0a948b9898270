"""BERT's uncased WordPiece: from text to the token ids a sentence model was trained on.

llama.cpp has a tokenizer of this kind too, but it composes what the original takes apart (Hangul, Devanagari) and
splits words the original gives up on, so its vectors for such texts are not the model's.

Source: `BasicTokenizer` and `WordpieceTokenizer` of https://github.com/google-research/bert (tokenization.py).
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice

_UNKNOWN, _START, _END = "[UNK]", "[CLS]", "[SEP]"
_MARKERS = 2
_LONGEST_WORD = 100
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """`vocabulary` lists the tokens in the order of their ids. Raises `KeyError` when it is not BERT's."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {token: number for number, token in enumerate(vocabulary)}
        self._unknown, self._start, self._end = (self._ids[marker] for marker in (_UNKNOWN, _START, _END))

    def encode(self, text: str, limit: int) -> list[int] | None:
        """The ids between the model's two markers; None when they are more than `limit`.

        Text is only text: "[SEP]" in it is three tokens and not the marker.
        """
        words = "".join(map(_normal, text)).split()
        ids = list(islice(self._pieces(words), limit - _MARKERS + 1))
        return [self._start, *ids, self._end] if len(ids) <= limit - _MARKERS else None

    def _pieces(self, words: Iterable[str]) -> Iterator[int]:
        return chain.from_iterable(map(self._split, words))

    def _split(self, word: str) -> list[int]:
        """Always the longest piece the vocabulary has; a word that does not come out even is unknown as a whole."""
        if len(word) > _LONGEST_WORD:
            return [self._unknown]
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    break
            else:
                return [self._unknown]
            ids.append(found)
            start = end
        return ids


@lru_cache(maxsize=8192)
def _normal(char: str) -> str:
    """Lower case without accents; a space around what is a word by itself, nothing for what cannot be seen."""
    if char in "\t\n\r" or unicodedata.category(char)[0] == "Z":
        return " "
    if char == "\ufffd" or unicodedata.category(char) in {"Cc", "Cf", "Co", "Cs"}:
        return ""
    bare = (part for part in unicodedata.normalize("NFD", char) if unicodedata.category(part) != "Mn")
    return "".join(f" {part} " if _stands_alone(part) else part for part in "".join(bare).lower())


def _stands_alone(char: str) -> bool:
    code = ord(char)
    is_ascii_symbol = code < 0x7F and not char.isalnum() and char.isprintable() and char != " "
    return (
        is_ascii_symbol
        or unicodedata.category(char)[0] == "P"
        or any(first <= code <= last for first, last in _IDEOGRAPHS)
    )
