"""The package assumes no POSIX system: what Windows or macOS lack is used behind a guard only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hrnet_d2"
FILES = sorted(PACKAGE.rglob("*.py"))

# Missing on Windows; the last also on macOS.
MODULES = {"crypt", "fcntl", "grp", "nis", "pty", "pwd", "resource", "syslog", "termios", "tty"}
_OF_OS = """
    O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fchmod fchown fork forkpty getegid geteuid
    getgid getloadavg getpgid getuid killpg memfd_create mkfifo nice posix_fadvise posix_fallocate
    posix_spawn pread preadv pwrite register_at_fork sched_getaffinity sched_setaffinity sendfile
    setsid statvfs sysconf uname wait3 wait4 waitid
"""
_OF_SIGNAL = """
    SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm
    pthread_kill setitimer sigwait
"""
NAMES = {
    "os": set(_OF_OS.split()),
    "signal": set(_OF_SIGNAL.split()),
    "time": {"tzset", "pthread_getcpuclockid"},
    "socket": {"AF_UNIX"},
}
FOLDERS = ("/tmp", "/var/", "/dev/", "/proc/", "/sys/", "/etc/", "/usr/", "/home/")


def guarded(parents: list[ast.AST]) -> bool:
    """Whether code runs only where it can: under a condition on the system, or in a ``try``."""
    for node, inside in zip(parents, [*parents[1:], None], strict=True):
        if isinstance(node, ast.Try) and inside in node.body and node.handlers:
            return True
        if isinstance(node, ast.If | ast.IfExp) and inside is not node.test:
            test = ast.unparse(node.test)
            if any(word in test for word in ("sys.platform", "os.name", "hasattr", "SUPPORTED")):
                return True
    return False


def problems(source: str) -> list[str]:
    found: list[str] = []
    docstrings = set()

    def visit(node: ast.AST, parents: list[ast.AST]) -> None:
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
        used: list[str] = []
        if isinstance(node, ast.Import):
            used = [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            base = node.module.split(".")[0]
            names = NAMES.get(base, set())
            used = [node.module] if base in MODULES else []
            used += [f"{base}.{a.name}" for a in node.names if a.name in names]
        elif isinstance(node, ast.Attribute):
            base = ast.unparse(node.value)
            used = [f"{base}.{node.attr}"] if node.attr in NAMES.get(base, ()) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("get_context", "set_start_method")
        ):
            used = [ast.unparse(node)] if "fork" in ast.unparse(node) else []
        elif isinstance(node, ast.Constant) and node not in docstrings:
            path_like = isinstance(node.value, str) and node.value.startswith(FOLDERS)
            used = [repr(node.value)] if path_like else []
        path = [*parents, node]
        if used and not guarded(path):
            found.extend(f"line {node.lineno}: {name}" for name in used)
        for child in ast.iter_child_nodes(node):
            visit(child, path)

    visit(ast.parse(source), [])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_nothing_of_posix_is_assumed(file):
    assert problems(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source, names",
    [
        ("import resource", ["resource"]),
        ("def f():\n    import fcntl", ["fcntl"]),
        ("from os import fork", ["os.fork"]),
        ("import os\nos.open('a', os.O_DIRECTORY)", ["os.O_DIRECTORY"]),
        ("import signal\nsignal.signal(signal.SIGHUP, f)", ["signal.SIGHUP"]),
        ("open('/tmp/a')", ["'/tmp/a'"]),
        ("open(f'/proc/{1}/stat')", ["'/proc/'"]),
        ("multiprocessing.get_context('fork')", ["multiprocessing.get_context('fork')"]),
        ("try:\n    import resource\nexcept ImportError:\n    resource = None", []),
        ("try:\n    pass\nexcept ImportError:\n    import resource", ["resource"]),
        ("import os\nif hasattr(os, 'fork'):\n    os.fork()", []),
        ("import sys\nif sys.platform == 'linux':\n    import fcntl", []),
        ("import sys\nif sys.platform == 'win32':\n    pass\nelse:\n    import fcntl", []),
        ("def f():\n    '''/tmp is a folder.'''", []),
        ("x = '.tmp'", []),
    ],
)
def test_the_check_itself(source, names):
    assert [found.partition(": ")[2] for found in problems(source)] == names


def text_without_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the system's encoding."""
    name, words = ast.unparse(call.func), {k.arg: k.value for k in call.keywords}
    if "encoding" in words:
        return False
    if name == "open":
        mode = words.get("mode", call.args[1] if len(call.args) > 1 else ast.Constant("r"))
        binary = not isinstance(mode, ast.Constant) or "b" in str(mode.value)
        return not binary and "/proc/" not in ast.unparse(call.args[0])
    given = {".read_text": 0, ".write_text": 1}
    return any(name.endswith(method) and len(call.args) <= n for method, n in given.items())


def test_text_files_are_utf8():
    """The default encoding is another one on Windows."""
    missing = [
        f"{file.relative_to(PACKAGE).as_posix()}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and text_without_encoding(node)
    ]
    assert not missing
