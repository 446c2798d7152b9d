"""Wheel and sdist, installed outside the checkout, carry everything that a user needs."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CODE = """
import hdsgd, pathlib, sys
assert pathlib.Path(hdsgd.__file__).is_relative_to(sys.argv[1]), hdsgd.__file__
import hdsgd.derivations
assert pathlib.Path(hdsgd.derivations.__file__).is_relative_to(sys.argv[1])
result = hdsgd.escape_experiment(replicas=4, d=100, t_max=0.1)
assert abs(result.rows[0].time - 1.0689) < 1e-3
assert hdsgd.generate("erf(x/3)", out=sys.argv[2]).errors
from hdsgd import _bridge
assert _bridge.generate_builtins(check=True) == []
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with a wheel and an sdist of the checkout."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("not a checkout")
    out = tmp_path_factory.mktemp("dist")
    tree = tmp_path_factory.mktemp("tree") / "source"  # setuptools leaves build folders behind
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if files.returncode:
        pytest.skip("needs git")
    for name in filter(lambda name: (ROOT / name).is_file(), files.stdout.splitlines()):
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(tree)], check=True, capture_output=True)
    return out


def install(package, target):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(package)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_installed_package_works_outside_the_checkout(built, pattern, tmp_path):
    (package,) = built.glob(pattern)
    target = tmp_path / "site"
    install(package, target)
    assert not (target / "generated").exists()
    assert not (target / "derivations").exists()
    environment = {**os.environ, "PYTHONPATH": str(target), "HDSGD_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-c", CODE, str(target), str(tmp_path / "kernel")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_sdist_carries_tests_and_license(built):
    (package,) = built.glob("*.tar.gz")
    with tarfile.open(package) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/conftest.py", "tests/data/risks.json"} <= names


def test_a_foreign_import_name_is_refused(tmp_path):
    folder = next(path for path in (ROOT / "derivations", ROOT / "hdsgd" / "derivations") if path.is_dir())
    run = subprocess.run(
        [sys.executable, "-c", "import derivations"],
        env={**os.environ, "PYTHONPATH": str(folder.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "hdsgd.derivations" in run.stderr
