"""The files of ``generate(..., out=...)`` work where hdsgd is not: numpy and C give the numbers of the derivation."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hdsgd
from hdsgd.derivations.verify import random_covariance

CASES = [  # student, teacher, name
    ("erf(x) + 0.1*x", None, "mine"),
    ("x**2 - x/3", None, None),  # with the diffusion of one unit
    ("relu", None, "ramp"),
    ("gelu", "quadratic", None),
    ("tanh(x/2)", None, "th"),
    ("linear", "sin", "import"),  # no Python module could have this name
]

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "{stem}.h"
int main(int count, char **text)
{{
    double v[16] = {{0}};
    for (int i = 1; i < count && i <= 16; i++) v[i - 1] = strtod(text[i], 0);
{calls}
    return 0;
}}
"""

PYTHON = """
import inspect, sys
assert "hdsgd" not in sys.modules
import {stem} as module
assert not [name for name in sys.modules if name == "hdsgd" or name.startswith(("hdsgd.", "sympy"))], "not alone"
values = [float(value) for value in sys.argv[1:]]
for name in {names}:
    function = getattr(module, name)
    print(repr(float(function(*values[: len(inspect.signature(function).parameters)]))))
"""


def run(command, folder):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]


@pytest.mark.needs_cc
@pytest.mark.parametrize(("student", "teacher", "name"), CASES, ids=[case[0] for case in CASES])
def test_files_work_on_their_own(student, teacher, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path / "cache"))
    made, used = tmp_path / "made", tmp_path / "used"
    report = hdsgd.generate(student, teacher, name=name, out=made)
    stem = f"hdsgd_{name or 'kernel'}"
    assert {path.name for path in made.iterdir()} == {f"{stem}.py", f"{stem}.c", f"{stem}.h"}
    shutil.copytree(made, used)
    header = (used / f"{stem}.h").read_text()
    declared = dict(re.findall(rf"double {stem}_(\w+)\(([^)]*)\);", header))
    assert set(declared) >= {"student", "student_prime", "teacher", *report.errors}
    assert ("cov_QQ" in declared) == (student.startswith("x**2"))
    for line in (f"{stem}_I2" if teacher is None else f"{stem}_I2_st", "(C11, C12, C22)", "cc -O2 -c", "worst error"):
        assert line in header

    rng = np.random.default_rng(5)
    covariance = 0.6 * random_covariance(rng, 4)
    values = [repr(float(value)) for value in covariance[np.triu_indices(4)]]
    calls = "\n".join(
        f'    printf("%.17g\\n", {stem}_{name}({", ".join(f"v[{i}]" for i in range(arguments.count("double")))}));'
        for name, arguments in declared.items()
    )
    (used / "main.c").write_text(MAIN.format(stem=stem, calls=calls))
    run(["cc", "-O2", "-c", f"{stem}.c"], used)
    run(["cc", "-O2", "-o", "main", "main.c", f"{stem}.o", "-lm"], used)
    from_c = run(["./main", *values], used)
    from_numpy = run(
        [
            sys.executable,
            "-I",
            "-c",
            "import sys; sys.path.insert(0, '.')\n" + PYTHON.format(stem=stem, names=list(declared)),
            *values,
        ],
        used,
    )
    np.testing.assert_allclose(from_c, from_numpy, rtol=1e-12, atol=1e-15)

    own = hdsgd.integral("I4", student, covariance) if teacher is None else None
    if own is not None:
        assert from_c[list(declared).index("I4")] == pytest.approx(own, rel=1e-12, abs=1e-15)


def test_an_existing_folder_keeps_what_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "hdsgd_kernel.h").write_text("old")
    hdsgd.generate("x/2", out=folder)
    assert {path.name for path in folder.iterdir()} == {
        "notes.txt",
        "hdsgd_kernel.py",
        "hdsgd_kernel.c",
        "hdsgd_kernel.h",
    }
    assert "KERNEL_H" in (folder / "hdsgd_kernel.h").read_text()
