#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Sessions around ``.ci/run``, which says what each check is; ``nox`` alone runs them all."""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"

PYTHONS = ["3.11", "3.12", "3.13"]


def stage(session: nox.Session, name: str, *constraints: str) -> None:
    """Run one stage of .ci/run in the session's environment."""
    session.install("-e", ".[test]", *constraints)
    session.run("bash", ".ci/run", "--here", name, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    stage(session, "lint")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    stage(session, "types")


@nox.session
def generated(session: nox.Session) -> None:
    """No drift between derivations/ and generated/."""
    stage(session, "generated")


@nox.session(name="docs-examples")
def docs_examples(session: nox.Session) -> None:
    """Examples of README and docstrings, against the wheel."""
    stage(session, "examples")


@nox.session(name="no-compiler")
def no_compiler(session: nox.Session) -> None:
    """The tests on a machine without a C compiler."""
    stage(session, "no-compiler")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests; arguments after ``--`` go to pytest instead."""
    if not session.posargs:
        stage(session, "tests")
        return
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(name="tests-on", python=PYTHONS, default=False)
def tests_on(session: nox.Session) -> None:
    """The tests on one Python: ``nox -s tests-on-3.13``."""
    stage(session, "tests")


@nox.session(python=PYTHONS[0], default=False)
def lowest(session: nox.Session) -> None:
    """The tests on the oldest Python with the lowest supported dependencies."""
    stage(session, "tests", "-c", ".ci/lowest.txt")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """The table of ratios; arguments after ``--`` are its options."""
    session.install("-e", ".[plot]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(default=False)
def review(session: nox.Session) -> None:
    """The Scientific Python community's checks of a repository."""
    session.install("repo-review[cli]", "sp-repo-review")
    session.run("repo-review", ".")


if __name__ == "__main__":
    nox.main()
