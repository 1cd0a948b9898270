"""What a value looks like: the forms it has for a notebook, and figures of matplotlib as pictures. Runs with user code."""

import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Forms = dict[str, str | bytes]
    Show = Callable[[Forms], None]

_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_json_": "application/json",
}
_PICTURES = {"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"}
_MOST_LETTERS = 32 * 1024
_PYPLOT = "matplotlib.pyplot"
_BACKEND = "aether_figures"


def forms_of(value: object) -> "Forms":
    """By media type; always with `text/plain`. Errors of the value's own methods are raised."""
    if _is_figure(value):
        return {"image/png": _picture_of(value), "text/plain": _cut(repr(value))}
    forms: Forms = {}
    if not isinstance(value, type):  # a class has these methods too, for its instances
        bundle = _call(value, "_repr_mimebundle_")
        if isinstance(bundle, tuple):
            bundle = bundle[0]
        if isinstance(bundle, dict):
            _add_all(forms, bundle)
        for method, mime in _METHODS.items():
            if mime not in forms:
                found = _call(value, method)
                _add_all(forms, {mime: found[0] if isinstance(found, tuple) else found})
    if "text/plain" not in forms:
        forms["text/plain"] = _cut(repr(value))
    return forms


def _call(value: object, method: str) -> object:
    # Asked of the type: objects that answer to any name have no such method.
    if getattr(type(value), method, None) is None:
        return None
    return getattr(value, method)()


def _add_all(forms: "Forms", found: "dict[Any, Any]") -> None:
    for mime, data in found.items():
        if data is None or not isinstance(mime, str):
            continue
        if mime in _PICTURES:
            from binascii import a2b_base64

            forms[mime] = a2b_base64(data) if isinstance(data, str) else bytes(data)
        elif mime.endswith("json"):
            import json

            forms[mime] = (
                data if isinstance(data, str) and mime != "application/json" else json.dumps(data, default=str)
            )
        else:
            forms[mime] = str(data)


def _cut(text: str) -> str:
    if len(text) <= _MOST_LETTERS:
        return text
    return f"{text[:_MOST_LETTERS]}… ({len(text) - _MOST_LETTERS} more characters)"


class Figures:
    """Shows figures when asked to, and those that are open when a cell has ended."""

    def __init__(self, show: "Show") -> None:
        self._show = show

    def watch_for_pyplot(self) -> None:
        """Nothing is imported before the user does it."""
        sys.modules[_BACKEND] = _backend(self.show_open)
        sys.meta_path.insert(0, _PyplotWatcher())

    def show_open(self) -> None:
        for figure in self._take_open():
            self._show({"image/png": _picture_of(figure), "text/plain": _cut(repr(figure))})

    def forget_open(self) -> None:
        self._take_open()

    @staticmethod
    def _take_open() -> "list[object]":
        pyplot: Any = sys.modules.get(_PYPLOT)
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return []
        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        pyplot.close("all")
        return figures


class _PyplotWatcher:
    """Sees that pyplot is about to be imported, and makes our backend the one it draws with."""

    @staticmethod
    def find_spec(name: str, path: "Sequence[str] | None" = None, target: "types.ModuleType | None" = None) -> None:  # noqa: ARG004 - Python's form
        if name == _PYPLOT:
            matplotlib: Any = sys.modules.get("matplotlib")
            if matplotlib is not None:
                matplotlib.use(f"module://{_BACKEND}")


def _backend(show_open: "Callable[[], None]") -> types.ModuleType:
    """A module that matplotlib takes for a backend: Agg, whose `show` shows."""
    module = types.ModuleType(_BACKEND, "Draws with Agg and shows figures in the cell's output.")

    def look_up(name: str) -> object:
        if name != "FigureCanvas":
            raise AttributeError(name)
        import importlib

        # Kept: matplotlib asks for it once, and then looks at what the module holds.
        canvas: object = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvas
        module.__dict__[name] = canvas
        return canvas

    def show(*_: object, **__: object) -> None:
        show_open()

    module.__dict__["__getattr__"] = look_up
    module.__dict__["show"] = show
    return module


def _is_figure(value: object) -> bool:
    figures: Any = sys.modules.get("matplotlib.figure")
    return figures is not None and isinstance(value, getattr(figures, "Figure", ()))


def _picture_of(figure: "Any") -> bytes:
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    pyplot: Any = sys.modules.get(_PYPLOT)
    if pyplot is not None:
        pyplot.close(figure)  # shown once
    return buffer.getvalue()
