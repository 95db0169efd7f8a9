"""The house: widths and sizes, which file may import which, and what can be taken away."""
import ast
import io
import os
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from conftest import ROOT, TINY, checkpoint, flags


def list_files():
    """Returns the files of the project, git's: tracked, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git knows which files belong to the project, and it is not here",
                    allow_module_level=True)
    paths = [Path(name) for name in listed.stdout.splitlines()]
    return [path for path in paths if (ROOT / path).is_file()]


FILES = list_files()
PYTHON = sorted(path for path in FILES if path.suffix == ".py")
PRODUCT = [path for path in PYTHON if path.parts[0] not in ("tests", "results")]
TEXTS = {path: (ROOT / path).read_text(encoding="utf-8") for path in PYTHON}
TREES = {path: ast.parse(text) for path, text in TEXTS.items()}


# ------------------------------------------------------------------------------------------------
# Widths and sizes


def test_no_line_of_python_is_wider_than_100_columns():
    wide = []
    for path, text in TEXTS.items():
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > 100:
                wide.append(f"{path}:{number}: {len(line)}")
    assert not wide


def test_readme_is_short_and_narrow():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 200
    assert len(text.split()) <= 2500


def functions(path):
    """Returns the functions and methods of a file, nested ones too."""
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(TREES[path]) if isinstance(node, kinds)]


def parameter_count(function):
    """Returns the number of parameters, without self."""
    a = function.args
    names = [arg.arg for arg in a.posonlyargs + a.args + a.kwonlyargs]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_function_has_more_than_60_lines():
    long = []
    for path in PRODUCT:
        for function in functions(path):
            lines = function.end_lineno - function.lineno + 1
            if lines > 60:
                long.append(f"{path}:{function.name}: {lines} lines")
    assert not long


def test_no_function_has_more_than_6_parameters():
    many = []
    for path in PRODUCT:
        for function in functions(path):
            count = parameter_count(function)
            if count > 6:
                many.append(f"{path}:{function.name}: {count} parameters")
    assert not many


def docstring_lines(tree):
    """Returns the numbers of the lines on which a docstring begins."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                lines.add(node.body[0].lineno)
    return lines


def count_tokens(path):
    """Returns Python's tokens of a file without comments, line ends, indentation and docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
               tokenize.ENCODING, tokenize.ENDMARKER}
    docstrings = docstring_lines(TREES[path])
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(TEXTS[path]).readline):
        is_docstring = token.type == tokenize.STRING and token.start[0] in docstrings
        if token.type not in skipped and not is_docstring:
            count += 1
    return count


def count_lines(path):
    """Returns the lines of a file that are neither empty nor a comment."""
    lines = [line.strip() for line in TEXTS[path].splitlines()]
    return len([line for line in lines if line and not line.startswith("#")])


def test_a_line_of_the_product_has_at_most_9_tokens_on_average():
    """The measure that formatting cannot move much: lines that do one thing each."""
    tokens = sum(map(count_tokens, PRODUCT))
    lines = sum(map(count_lines, PRODUCT))
    assert tokens / lines <= 9


# ------------------------------------------------------------------------------------------------
# Imports: config, encodings, arc <- model <- engine <- train <- refine


def module_name(path):
    """Returns the name under which a file is imported: encodings/ is `positions` (positions.py)."""
    parts = list(path.with_suffix("").parts)
    if parts[0] == "encodings":
        parts[0] = "positions"
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


MODULES = {module_name(path): path for path in PRODUCT}


def nodes_of(tree, inside_functions):
    """Yields the nodes of a tree; without functions' bodies: those that run when it is imported."""
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if inside_functions or not isinstance(node, kinds):
            todo += ast.iter_child_nodes(node)


def source_of(node, module):
    """Returns the absolute module name that a `from ... import` of a module names."""
    if not node.level:
        return node.module
    parts = module.split(".")
    if MODULES[module].name == "__init__.py":
        parts.append("__init__")
    package = parts[:-node.level]
    return ".".join(package + ([node.module] if node.module else []))


def imports_of(module, inside_functions=True):
    """Returns {(imported module, name, or None where the module itself is imported)}."""
    found = set()
    for node in nodes_of(TREES[MODULES[module]], inside_functions):
        if isinstance(node, ast.Import):
            found.update((alias.name, None) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            source = source_of(node, module)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add((inner, None) if inner in MODULES else (source, alias.name))
    return found


def room_of(module):
    return module.split(".")[0]


# room: what it must not import; a room is a folder, or a file at the top level
HIGHER = {"train", "refine"}
FORBIDDEN = {
    "config": {"model", "engine"} | HIGHER,
    "positions": {"model", "engine"} | HIGHER,
    "arc": {"model", "engine"} | HIGHER,
    "model": {"engine"} | HIGHER,
    "engine": HIGHER,
    "train": {"refine"},
}


def test_every_module_is_in_a_room_that_has_its_rules():
    assert {room_of(module) for module in MODULES} == {*FORBIDDEN, "refine"}


def test_imports_go_one_way():
    """Those inside functions too."""
    upwards = []
    for module in MODULES:
        for imported, _ in imports_of(module):
            if room_of(imported) in FORBIDDEN.get(room_of(module), ()):
                upwards.append(f"{module} imports {imported}")
    assert not upwards


def test_nothing_of_the_product_imports_tests_or_results():
    for module in MODULES:
        rooms = {room_of(imported) for imported, _ in imports_of(module)}
        assert not rooms & {"tests", "results", "conftest"}, module


def test_refine_takes_nothing_from_train_but_fit():
    """So somebody who copies train.py and changes it does not break refine.py unnoticed."""
    taken = {name for imported, name in imports_of("refine") if imported == "train"}
    assert taken <= {"fit"}                    # None would be `import train`


def find_circle(edges):
    """Returns a list of modules of which each imports the next and the last the first, or None."""
    finished = set()

    def visit(module, path):
        if module in path:
            return path[path.index(module):]
        if module in finished:
            return None
        for imported in sorted(edges[module]):
            circle = visit(imported, [*path, module])
            if circle:
                return circle
        finished.add(module)
        return None
    for module in sorted(edges):
        circle = visit(module, [])
        if circle:
            return circle
    return None


def test_a_circle_is_found_where_there_is_one():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_no_modules_import_each_other_in_a_circle():
    edges = {}
    for module in MODULES:
        imported = {name for name, _ in imports_of(module, inside_functions=False)}
        edges[module] = imported & MODULES.keys()
    assert edges["train"] and edges["model"]   # the imports were found at all
    assert find_circle(edges) is None


# ------------------------------------------------------------------------------------------------
# What can be taken away, and from where it runs

SMALL = {**TINY, "max_steps": 1, "views": 1, "val": "", "oned_eval": 1}


def python(*arguments, cwd, **environment):
    """Runs Python in a process of its own, which must succeed."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, text=True,
                          capture_output=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr


def test_without_refine_and_results_the_rest_works(tmp_path):
    for path in FILES:
        if path.parts[0] not in ("refine.py", "results"):
            target = tmp_path / "project" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target)
    code = "import sys, train; train.main(sys.argv[1:])"
    python("-c", code, "config/smoke.py", *flags(**SMALL, out_dir="run"), cwd=tmp_path / "project")
    assert checkpoint(tmp_path / "project" / "run")["step"] == 1


@pytest.mark.parametrize("where, environment", [
    ("here", dict(PYTHONPATH=".")),            # Python has a package `encodings` of its own
    ("elsewhere", {}),
])
def test_train_runs_with_a_python_path_and_from_another_directory(tmp_path, where, environment):
    given = flags(**SMALL, out_dir=tmp_path / "run")
    cwd = ROOT if where == "here" else tmp_path
    python(ROOT / "train.py", "config/smoke.py", *given, cwd=cwd, **environment)
    assert checkpoint(tmp_path / "run")["step"] == 1
