"""The architecture: who may import whom, and what stays unimported."""

import ast
import subprocess
import sys
from pathlib import Path

import hdsgd

ROOT = Path(hdsgd.__file__).parent
DERIVATIONS = ROOT.parent / "derivations" if (ROOT.parent / "derivations").is_dir() else ROOT / "derivations"

LAYERS = [
    [
        "_signals",
        "_checks",
        "_errors",
        "_random",
        "_compiler",
        "_bridge",
        "_activation",
        "_cone",
        "_overlaps",
        "_schedule",
        "_laws",
        "_storage",
        "_checkpoint",
        "_record",
        "_statistics",
    ],
    [
        "_family",
        "_increments",
        "_increments_c",
        "_increments_erf",
        "_increments_exponentials",
        "_increments_leading",
        "_nodes",
    ],
    ["_problem", "_kernel"],
    ["_diffusion"],
    ["_dynamics", "_solution", "_plots", "_point_plots", "_study_plots", "_paths", "_expectations", "_starts"],
    [
        "_ode",
        "_sde",
        "_sde_c",
        "_sde_numpy",
        "_sde_plan",
        "_simulate",
        "_simulate_c",
        "_chain_numpy",
        "_weights_numpy",
        "_passage",
        "_retrieval",
        "_formulas",
        "_corrected",
    ],
    [
        "_experiment",
        "_escape_points",
        "_escape_result",
        "_escape_study",
        "_deviation",
        "_fixed_points",
        "_itinerary",
        "_hessian",
        "_mean_field",
        "_reduced_risk",
        "_floors",
        "_learning_rate",
        "_plateau",
        "_plateau_exit",
        "_quadratic_network",
        "escape",
        "_points",
        "_scaling",
        "_sweep",
    ],
    ["_figures"],
    ["cli", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def relative_imports(path, package):
    """Names of the sibling modules that a file imports, at any depth of the code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = len(path.relative_to(package).parts) - 1
            if node.level - 1 != inside:
                continue
            if node.module:
                yield node.module.split(".")[0]
            else:
                yield from (alias.name for alias in node.names)


def runtime_files():
    return [
        path for path in sorted(ROOT.rglob("*.py")) if "generated" not in path.parts and "derivations" not in path.parts
    ]


def test_every_module_has_a_layer():
    names = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in runtime_files()}
    assert names - {"__init__", "csrc", "data"} == set(LEVEL)


def test_layers_import_downwards_only():
    wrong = []
    for path in runtime_files():
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for target in relative_imports(path, ROOT):
            if own in LEVEL and target in LEVEL and LEVEL[target] > LEVEL[own]:
                wrong.append(f"{own} imports {target}")
    assert not wrong


def test_only_the_bridge_reaches_the_derivations():
    users = [path.name for path in runtime_files() if "derivations" in set(relative_imports(path, ROOT))]
    assert users == ["_bridge.py"]


def test_derivations_never_import_the_runtime():
    for path in DERIVATIONS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level - 1 <= len(path.relative_to(DERIVATIONS).parts) - 1, path
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not any(name.split(".")[0] == "hdsgd" for name in names), path


def test_no_source_file_grows_beyond_one_room():
    files = [*runtime_files(), *DERIVATIONS.rglob("*.py"), *(ROOT / "csrc").glob("*.[ch]")]
    assert [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 450] == []


def test_import_and_a_solve_stay_light():
    code = (
        "import sys, hdsgd\n"
        "problem = hdsgd.Problem('quadratic', gamma=0.1, spherical=True)\n"
        "start = hdsgd.Overlaps([[1.0]], [[0.1]], [[1.0]])\n"
        "hdsgd.solve_ode(problem, start, 0.5)\n"
        "hdsgd.simulate(problem, start, 0.01, d=100, rng=0)\n"
        "heavy = {'sympy', 'matplotlib', 'xarray', 'mpmath', 'pandas', 'dask'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "ignore::UserWarning", "-c", code], check=True)
