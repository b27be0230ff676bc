"""The house rules that a linter cannot hold: what is promised in README and CONTRIBUTING, and what never enters."""

import ast
import fnmatch
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "galstress"
MODULES = sorted(SOURCE.rglob("*.py"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))

LARGEST_FILE = 8_000_000  # bytes
LONGEST_MODULE, LONGEST_TEST_FILE, LONGEST_FUNCTION = 400, 600, 60  # lines

# Modules that are longer for a reason: {"module.py": "reason"}.
LONG_FOR_A_REASON: dict[str, str] = {}


def tracked_files() -> list[Path]:
    """Files that git tracks or would add; without git, all files outside of hidden folders."""
    if shutil.which("git") and (REPOSITORY / ".git").exists():
        command = ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z", "-co", "--exclude-standard"]
        names = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
        files = [REPOSITORY / name for name in names if name]
    else:
        files = [
            p for p in REPOSITORY.rglob("*") if not any(part[0] == "." for part in p.relative_to(REPOSITORY).parts)
        ]
    return [path for path in files if path.is_file()]


def texts() -> dict[str, str]:
    """Every tracked text file by its path in the repository."""
    found = {}
    for path in tracked_files():
        try:
            found[str(path.relative_to(REPOSITORY))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_id(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def python_blocks(document: str) -> list[str]:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


# ---- the documents -------------------------------------------------------------------------------------------------


def test_python_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch):
    blocks = python_blocks("README.md")
    assert blocks, "the README shows no Python"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
    assert {"cutouts", "prediction", "table", "explanation"} <= set(names)


def test_the_first_example_of_the_readme_has_about_ten_lines():
    lines = [line for line in python_blocks("README.md")[0].splitlines() if line.strip()]
    assert 5 <= len(lines) <= 12


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/measured.md"])
def test_files_named_in_the_documents_exist(document):
    path = REPOSITORY / document
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_commands_in_the_readme_are_the_commands():
    result = subprocess.run(
        [sys.executable, "-m", "galstress.cli", "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    table = re.findall(r"^\| `galstress (\w+)", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(table) >= 8
    assert [name for name in table if not re.search(rf"\b{name}\b", result.stdout)] == []


def test_surveys_in_the_readme_are_the_surveys():
    table = re.findall(
        r"^\| `([\w-]+)` \| [^|]+ \| ([\d.]+)″", (REPOSITORY / "README.md").read_text("utf-8"), re.MULTILINE
    )
    shipped = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in SOURCE.glob("surveys/*.toml")}
    assert {name: float(scale) for name, scale in table} == {
        name: record["pixel_scale_arcsec"] for name, record in shipped.items()
    }


def test_one_version_everywhere():
    import galstress

    version = PROJECT["project"]["version"]
    citation = re.search(r"^version: (\S+)$", (REPOSITORY / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    newest = re.search(r"^## (\d\S*)", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert citation is not None
    assert newest is not None
    assert [galstress.__version__, citation[1], newest[1]] == [version] * 3


# ---- the package ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["galstress", "galstress.cli"])
def test_import_is_light(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'astropy', 'matplotlib', 'scipy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_every_import_is_a_declared_dependency():
    declared = {_normal(re.split(r"[\s<>=\[;]", line)[0]) for line in PROJECT["project"]["dependencies"]}
    owners = importlib.metadata.packages_distributions()
    undeclared = {}
    for path in MODULES:
        for name in _imported(tree(path)):
            top = name.partition(".")[0]
            if top == "galstress" or top in sys.stdlib_module_names:
                continue
            if not declared & {_normal(owner) for owner in owners.get(top, [])}:
                undeclared[top] = module_id(path)
    assert undeclared == {}


def test_what_photutils_deblends_with_is_a_dependency():
    # photutils imports it only when two sources touch, so nothing but such an image would miss it
    deblending = importlib.util.find_spec("photutils.segmentation.deblend")
    assert "from skimage" in Path(deblending.origin).read_text("utf-8")
    assert any(line.startswith("scikit-image") for line in PROJECT["project"]["dependencies"])


def test_direct_dependencies_are_pinned_in_the_constraints():
    extras = [line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines]
    direct = {_normal(re.split(r"[\s<>=\[;]", line)[0]) for line in PROJECT["project"]["dependencies"] + extras}
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    pins = {_normal(line.partition("==")[0]) for line in lines if "==" in line}
    assert pins == direct


def test_files_that_are_no_python_are_package_data():
    globs = PROJECT["tool"]["setuptools"]["package-data"]["galstress"]
    names = [str(p.relative_to(SOURCE)) for p in tracked_files() if SOURCE in p.parents and p.suffix != ".py"]
    assert "py.typed" in names
    patterns = [glob.removeprefix("**/") for glob in globs]
    assert [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


# ---- what never enters ---------------------------------------------------------------------------------------------


def test_no_large_file():
    assert [str(path) for path in tracked_files() if path.stat().st_size > LARGEST_FILE] == []


def test_no_private_path_in_any_file():
    private = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work|farm|scratch|mnt|media)/\w|[A-Z]:\\Users", re.ASCII)
    found = {name: match[0] for name, text in texts().items() if (match := private.search(text))}
    assert found == {}


def test_no_module_class_or_function_without_a_concept():
    empty = {"util", "utils", "utilities", "helper", "helpers", "common", "misc", "base", "manager"}
    named = [(path.stem, path.name) for path in tracked_files() if path.suffix == ".py"]
    named += [(part, path.name) for path in MODULES for part in path.relative_to(SOURCE).parts[:-1]]
    for path in MODULES:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        named += [(node.name, module_id(path)) for node in ast.walk(tree(path)) if isinstance(node, kinds)]
    assert [(name, where) for name, where in named if empty & set(_words(name))] == []


def _constant(node):
    return node.value if isinstance(node, ast.Constant) else None


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_nothing_is_pickled(path):
    code = tree(path)
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not modules & {name.partition(".")[0] for name in _imported(code)}
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    alone = {"weights_only": True}
    safe = {id(call.func) for call in calls if alone.items() <= {(k.arg, _constant(k.value)) for k in call.keywords}}
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "save"), node.lineno
            # foreign weights may be read where nothing of theirs can run
            assert (node.value.id, node.attr) != ("torch", "load") or id(node) in safe, node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert not {"save", "load"} & {alias.name for alias in node.names}, node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), node.value.lineno
            assert node.value.value is False, node.value.lineno


def test_files_are_short():
    limits = {path: LONGEST_MODULE for path in MODULES if module_id(path) not in LONG_FOR_A_REASON}
    limits |= dict.fromkeys((REPOSITORY / "tests").rglob("*.py"), LONGEST_TEST_FILE)
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in limits}
    assert {str(path): lengths[path] for path, limit in limits.items() if lengths[path] > limit} == {}


def test_functions_are_short():
    long = {}
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if lines > LONGEST_FUNCTION:
                    long[f"{module_id(path)}:{node.name}"] = lines
    assert long == {}


def test_layers_of_both_contracts_are_spelled_alike():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = [{name for line in contract["layers"] for name in re.findall(r"\w+", line)} for contract in contracts]
    assert all(others <= layers[0] for others in layers[1:])
    assert {path.stem for path in SOURCE.glob("*.py")} - {"__init__"} <= layers[0]


# ---- make ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    """A folder with the files that make reads, and nothing installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_calls_pip_once(bare, target):
    python = bare / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert "pip" in make(bare, "-n", target).stdout
    (bare / ".venv" / (".installed" if target == "demo" else ".installed-with-judges")).touch()
    again = make(bare, "-n", target).stdout
    assert "pip" not in again
    assert "galstress demo --output demo" in again or "-m pytest" in again


@pytest.mark.parametrize(
    ("lacking", "named"), [("version", "Python 3.11"), ("venv", "python3-venv"), ("ensurepip and pip", "python3-venv")]
)
def test_make_says_in_one_line_what_python_lacks(bare, lacking, named):
    python = bare / "python-without"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in\n*version_info*) {"exit 1" if lacking == "version" else "exit 0"};;\n'
        f'*"import venv"*) {"exit 1" if lacking == "venv" else "exit 0"};;\n*) exit 1;;\nesac\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    result = make(bare, "--silent", "demo", f"PYTHON={python}")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert result.returncode != 0
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert named in lines[0]


# ---- reading the code ----------------------------------------------------------------------------------------------


def _imported(code: ast.Module) -> set[str]:
    """Absolute names of the modules that are imported anywhere in a file."""
    found = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def _words(name: str) -> list[str]:
    """The words of snake_case and CamelCase, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def _normal(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
