"""A canary for processes that read mutated files: what no reader may do ends the process."""

import os
import sys

__all__ = ["Canary"]

_FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"),
    *("socket.", "exec", "compile", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir"),
    *("os.symlink", "os.link", "os.chmod", "shutil.", "marshal.", "code.__new__", "function."),
)
_FILES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "tempfile.mkdtemp")
# What the libraries import or compile the first time that they meet a rare case.
_MAY_IMPORT = (
    *("torch", "numpy", "encodings", "unicodedata", "ast", "safetensors", "_", "linecache"),
    *("traceback", "tokenize", "textwrap", "colorama", "importlib", "dis", "opcode"),
)


class Canary:
    """An audit hook that ends the process at the first forbidden event."""

    def __init__(self, scratch: str, *, cache: bool = False, imports: tuple[str, ...] = ()):
        """
        Args:
            scratch: the folder in which files may be written.
            cache: folders and files in ``scratch`` may be made, renamed and removed as well.
            imports: the start of further modules' names that may be imported.
        """
        self.scratch = scratch
        self.cache = cache
        self.imports = (*_MAY_IMPORT, "hrnet_d2", "tests.", *imports)
        self.armed = False

    def __call__(self, event: str, args: tuple) -> None:
        if not self.armed:
            return
        bad = event.startswith(_FORBIDDEN) and not (
            self._literal(event, args) or self._loads_module(event)
        )
        if self.cache and event in _FILES:
            paths = [path for path in args if isinstance(path, str | os.PathLike)]
            bad = not all(map(self._inside, paths)) and not self._in_open_folder(args)
        if event == "open":
            path, mode, flags = args
            writes = (mode and set(mode) & set("wax+")) or (flags & (os.O_WRONLY | os.O_RDWR))
            bad = bool(writes) and not isinstance(path, int) and not self._inside(path)
        elif event == "import":
            bad = not str(args[0]).startswith(self.imports)
        if bad:
            self.armed = False
            os.write(2, f"CANARY {event} {str(args)[:300]}\n".encode())
            os._exit(1)

    def _inside(self, path: object) -> bool:
        return os.path.abspath(str(path)).startswith(os.path.join(self.scratch, ""))

    @staticmethod
    def _in_open_folder(args: tuple) -> bool:
        """Whether a name is relative to a folder that is open, as in shutil.rmtree."""
        return isinstance(args[-1], int) and args[-1] >= 0

    @staticmethod
    def _literal(event: str, args: tuple) -> bool:
        """NumPy parses the header of an array as a literal, which compiles it to a tree."""
        return event == "compile" and sys._getframe(2).f_code.co_filename.endswith("ast.py")

    @staticmethod
    def _loads_module(event: str) -> bool:
        """Whether an import, which was looked at by name, reads its compiled file and runs it."""
        importing = "<frozen importlib._bootstrap"
        return event in ("marshal.loads", "exec") and (
            sys._getframe(2).f_code.co_filename.startswith(importing)
        )
