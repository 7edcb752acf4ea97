"""Write the bytecode of the functions' modules into vendor/, from which Chalice packages it.

A function cannot store bytecode, because the folder of its code is read-only: without these files
each cold start compiles the modules. Each file has the hash of its source, which Python compares
when it imports the module (PEP 552), and the version of Python in its name. So bytecode of another
source or for another Python is ignored.
"""

import tempfile
from importlib.util import MAGIC_NUMBER, cache_from_source, find_spec, source_hash
from pathlib import Path
from py_compile import PycInvalidationMode
from py_compile import compile as write_bytecode

ROOT = Path(__file__).parent.parent
VENDOR = ROOT / "vendor"
# The folder where Lambda unpacks the package, which tracebacks name.
DEPLOYED = Path("/var/task")
# Patterns of the source files in the package, of the functions and of libraries in .venv.
OWN = ("app.py", "chalicelib/**/*.py")
LIBRARIES = (
    # Chalice packages these two files of itself.
    "chalice/__init__.py",
    "chalice/app.py",
    "urllib3/**/*.py",
)
# Patterns of their bytecode below vendor/. All other files there belong to the user.
WRITTEN = (
    "__pycache__/app.*.pyc",
    "chalice/**/__pycache__/*.pyc",
    "chalicelib/**/__pycache__/*.pyc",
    "urllib3/**/__pycache__/*.pyc",
)


def write() -> None:
    """Bring the bytecode of all modules up to date, and delete the bytecode of modules that are
    gone; raise PyCompileError if a source file has a syntax error.

    A file that is up to date is not written again: compiled twice, a module can have different
    bytes, and Chalice would upload a package in which nothing changed.
    """
    # The patterns of the source files in the package, each with the folder in which it is searched.
    packaged = [(ROOT, pattern) for pattern in OWN]
    for pattern in LIBRARIES:
        library = pattern.partition("/")[0]
        packaged.append((_folder_of(library), pattern))
    # Each source file with the folder in which its pattern found it, by the path of its bytecode.
    sources = {}
    for folder, pattern in packaged:
        for source in folder.glob(pattern):
            sources[_bytecode_path(source.relative_to(folder))] = (folder, source)
    written = {path for pattern in WRITTEN for path in VENDOR.glob(pattern)}
    for path in written - sources.keys():
        path.unlink()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    # A file appears in vendor/ only when it is complete, because another command may be packaging.
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        for path, (folder, source) in sources.items():
            if _is_up_to_date(path, source):
                continue
            complete = Path(scratch, path.name)
            write_bytecode(
                file=str(source),
                cfile=str(complete),
                dfile=str(DEPLOYED / source.relative_to(folder)),  # the path in tracebacks
                doraise=True,
                invalidation_mode=PycInvalidationMode.CHECKED_HASH,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            complete.replace(path)


def _folder_of(library: str) -> Path:
    """Return the folder that has a library's package, such as `site-packages`; raise
    ModuleNotFoundError if the library is not installed.

    The library is not imported: that would take longer than the rest of this module.
    """
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(library)
    package = Path(spec.origin).parent  # of site-packages/urllib3/__init__.py
    return package.parent


def _bytecode_path(module: Path) -> Path:
    """Return the path of a module's bytecode in vendor/.

    :param module: The path of the module's source in the package.
    """
    # Only the name of the bytecode file is used. Its folder would be elsewhere with
    # PYTHONPYCACHEPREFIX.
    name = Path(cache_from_source(module.name)).name
    return VENDOR / module.parent / "__pycache__" / name


def _is_up_to_date(path: Path, source: Path) -> bool:
    """Return whether a bytecode file exists, for this version of Python, with the hash of its
    source.

    :param path: The path of the bytecode file.
    :param source: The path of the source file.
    """
    # The header of a bytecode file that has the hash of its source (PEP 552): the version of
    # Python, two flags, and the hash.
    is_hash_based_and_checked = 0b11
    header = (
        MAGIC_NUMBER
        + is_hash_based_and_checked.to_bytes(4, "little")
        + source_hash(source.read_bytes())
    )
    return path.is_file() and path.read_bytes().startswith(header)


if __name__ == "__main__":
    write()
