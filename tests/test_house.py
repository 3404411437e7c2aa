"""The rules between the parts: who may import whom, what stays unloaded, what is never used, that the docs are true."""

from __future__ import annotations

import ast
import graphlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtcli"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
SOURCES = [
    path
    for folder in ("mtcli", "data", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

# The law of the house: a wing imports only from wings to its left. Inside a wing, imports have no circles.
WINGS = "support config text models run decoding training seeing cli".split()

# With these alone a translator runs that was exported for other engines, on a machine without torch.
WITHOUT_TORCH = (
    "__init__ cli.main cli.loading cli.options cli.output cli.tables config training.defaults support.errors "
    "support.distributed support.progress text.corpus text.tokenizers text.vocab text.codec text.metrics "
    "decoding.translator decoding.exported decoding.ctranslate2 decoding.alignment seeing seeing.trace "
    "seeing.view seeing.terminal seeing.picture seeing.page cli.look"
).split()


def wing(module: str) -> str:
    return module.split(".")[0]


def imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, module of mtcli) for each import in a file, also those inside functions."""
    package = ["mtcli", *MODULES[module].relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "mtcli":
                continue
            parts = name.split(".")[1:]  # of `mtcli.a.b.name`, the longest part that is a file
            while parts and ".".join(parts) not in MODULES:
                parts.pop()
            if parts:
                yield node.lineno, ".".join(parts)


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name not in ("__init__", "__main__")]
)
def test_a_wing_imports_only_from_wings_to_its_left(module: str) -> None:
    assert wing(module) in WINGS, (
        f"mtcli/{wing(module)} is new to the house: give it a place in WINGS"
    )
    for line, imported in imports(module):
        assert WINGS.index(wing(imported)) <= WINGS.index(wing(module)), (
            f"mtcli/{module.replace('.', '/')}.py:{line} imports {imported}, of a wing to the right of its own"
        )


def test_imports_have_no_circles() -> None:
    needs = {module: {name for _, name in imports(module) if name != module} for module in MODULES}
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_over_450_lines_and_no_function_over_60(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 60, node.name


def test_imports_are_found_in_relative_and_absolute_form() -> None:
    assert "support.errors" in {imported for _, imported in imports("text.metrics")}
    assert {"models.base", "models.gru"} <= {imported for _, imported in imports("models")}
    assert "seeing" in {imported for _, imported in imports("__init__")}


def test_torch_stays_unloaded_until_it_is_needed() -> None:
    names = [
        "mtcli" if name == "__init__" else f"mtcli.{name}"
        for name in WITHOUT_TORCH
        if name in MODULES
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} imports torch')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLING = {"torch.load", "torch.save", "numpy.load", "np.load", "dist.all_gather_object", "dist.gather_object",
            "dist.broadcast_object_list", "dist.scatter_object_list"}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_and_every_module_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), (
        f"{path.name} has no docstring: its role, and what it does not know"
    )
    for node in ast.walk(tree):
        place = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            assert not PICKLES & {alias.name.split(".")[0] for alias in node.names}, place
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] not in PICKLES, place
            assert not PICKLING & {f"{node.module}.{alias.name}" for alias in node.names}, place
        elif isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in PICKLING, f"{place}: {ast.unparse(node)}"


def texts() -> list[Path]:
    """The files of the project that people read."""
    kinds = {".py", ".md", ".yaml", ".toml", ".txt", ".json", ""}
    hidden = {
        ".git",
        ".venv",
        ".mypy_cache",
        ".ruff_cache",
        "runs",
        "build",
        "dist",
        "__pycache__",
        ".pytest_cache",
        ".hypothesis",
    }
    found = (
        path for path in ROOT.rglob("*") if not hidden.intersection(path.relative_to(ROOT).parts)
    )
    return sorted(
        path
        for path in found
        if path.is_file() and path.suffix in kinds and ".egg-info" not in str(path)
    )


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    place = re.compile(r"(?<![\w.:/-])/(?:work|root|home|opt|tmp/w)(?=/|\b(?![\w-]))")
    assert place.search("see /" + "work/data") and not place.search(
        "encode/decode, https://a.org/home"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if place.search(line)
    ]
    assert not found, "\n".join(found)


# ------------------------------------------------------------------------------------------------------------ commands


def shell_commands() -> list[tuple[str, str]]:
    """(place, command) of each line in a fenced sh block of the docs and of each command atop a config."""
    found = []
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found += [(path.name, line) for line in block.splitlines()]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        found += [
            (path.name, line.lstrip("# "))
            for line in path.read_text(encoding="utf-8").splitlines()
            if re.match(r"#\s*mtcli ", line)
        ]
    return [
        (place, part.strip())
        for place, line in found
        for part in re.split(r"&&|\|\||[|;]", line.split(" #")[0])
        if part.strip()
    ]


def wrong(command: str) -> str | None:
    """Why a command is not valid; None if it is."""
    import typer

    from mtcli.cli import app

    words = shlex.split(command)
    ours = re.compile(r"(\./)?(configs|tests|benchmarks|data/toy|data/words)/[^*<>]*\.\w+$")
    for word in words:
        if ours.match(word) and not (ROOT / word).exists():
            return f"there is no {word}"
    if words[:3] in (["python", "-m", "mtcli"], ["python3", "-m", "mtcli"]):
        words = words[2:]
    if words[0] != "mtcli":
        return None
    root = typer.main.get_command(app)
    names = [word for word in words[1:] if not word.startswith("-")][:1]
    known = root
    if names:
        if names[0] not in root.commands:
            return f"there is no command {names[0]}"
        known = root.commands[names[0]]
    options = {"--help"}.union(*(parameter.opts for parameter in known.params))
    for word in words[1:]:
        if re.match(r"--?[a-z]", word) and word.split("=")[0] not in options:
            return f"there is no option {word}"
    return None


def test_commands_in_the_docs_and_configs_are_valid() -> None:
    reasons = [
        f"{place}: {command}: {why}"
        for place, command in shell_commands()
        if (why := wrong(command))
    ]
    assert not reasons, "\n".join(reasons)


def test_wrong_commands_are_noticed() -> None:
    assert wrong('mtcli translate "apple" --beam-size 4') is None
    assert wrong("mtcli train --config configs/words.yaml --set training.max_updates=5") is None
    assert wrong("python -m mtcli translat x") == "there is no command translat"
    assert wrong("mtcli train --konfig configs/words.yaml") == "there is no option --konfig"
    assert wrong("mtcli train --config configs/absent.yaml") == "there is no configs/absent.yaml"
