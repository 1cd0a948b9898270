"""Patterns of file names, as in a shell with `**`, made regular expressions."""

import re


def to_regex(glob: str) -> "re.Pattern[str]":
    """For whole paths where `glob` has a slash, else for names.

    Raises:
        re.error: it is no pattern.
    """
    pieces: list[str] = []
    depth = at = 0
    while at < len(glob):
        piece = next(
            (special for special in ("**/", "**", "*", "?", "[", "{", "}", ",", "\\") if glob.startswith(special, at)),
            "",
        )
        at += len(piece) or 1
        match piece:
            case "**/":
                pieces.append("(?:.*/)?")
            case "**":
                pieces.append(".*")
            case "*":
                pieces.append("[^/]*")
            case "?":
                pieces.append("[^/]")
            case "[":
                end = glob.find("]", at + 1)
                if end < 0:
                    pieces.append(r"\[")
                else:
                    inner = glob[at:end].replace("\\", r"\\").replace("[", r"\[")
                    pieces.append(f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]")
                    at = end + 1
            case "{":
                depth += 1
                pieces.append("(?:")
            case "}" if depth:
                depth -= 1
                pieces.append(")")
            case "," if depth:
                pieces.append("|")
            case "\\" if at < len(glob):
                pieces.append(re.escape(glob[at]))
                at += 1
            case _:
                pieces.append(re.escape(glob[at - 1]))
    return re.compile("".join(pieces), re.DOTALL)
