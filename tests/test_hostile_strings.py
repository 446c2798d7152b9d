"""No text runs code, whatever it says: it is refused in one line, on every way in."""

import sys

import pytest
from hostile_strings import BUILTINS, HOSTILE, SENTINEL, TOKENS, WORDS
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hdsgd
from hdsgd.cli import main
from hdsgd.derivations.parse import MAX_LENGTH, to_sympy

#: what running anything would be seen by; reading formulas compiles nothing and opens nothing but saved names
EVENTS = (
    "exec",
    "import",
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "marshal.",
    "pickle.",
    "shutil.",
    "code.__new__",
)
_watched: list[str] | None = None


def _audit(event, arguments):
    if _watched is not None and (event.startswith(EVENTS) or (event == "open" and "r" not in str(arguments[1]))):
        _watched.append(f"{event} {arguments}"[:200])


sys.addaudithook(_audit)


class watch:
    """Records what is run meanwhile."""

    def __enter__(self):
        global _watched
        self.seen = _watched = []
        return self.seen

    def __exit__(self, *_):
        global _watched
        _watched = None


def allowed(events):
    """Without the folders of the cache that are made and listed to look for saved names."""
    return [event for event in events if not event.startswith(("os.listdir", "os.scandir", "os.mkdir", "os.chmod"))]


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Import what the ways in import when they are first used."""
    main(["derive", "x**2/7"])
    main(["derive", "no formula"])
    to_sympy("he2(x) + max(x, 1)")
    main(["solve", "--activation", "no formula", "-d", "9"])
    with pytest.raises(ValueError):
        hdsgd.activation("no_name")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path / "cache"))


def test_there_are_enough():
    assert len(HOSTILE) - len(BUILTINS) - len(WORDS) >= 200
    assert len(HOSTILE) >= 400


def refused(text):
    """Refuse a text by Python and return the message."""
    with watch() as seen, pytest.raises(ValueError) as caught:
        hdsgd.activation(text)
    assert allowed(seen) == []
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    return message


def test_the_watch_sees_what_runs():
    with watch() as seen:
        eval("1")
    assert seen
    with watch() as seen:
        __import__("os").stat(".")
        open(SENTINEL, "w").close()  # noqa: PTH123
    assert allowed(seen)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_refused_in_one_line_by_python_and_on_the_command_line(text, capsys, tmp_path):
    assert len(refused(text)) > 20
    with watch() as seen:
        code = main(["derive", text])
    out, err = capsys.readouterr()
    assert allowed(seen) == []
    assert (code, out) == (2, "")
    assert err.startswith("hdsgd: error: ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / SENTINEL).exists()


@pytest.mark.parametrize("text", ["x.__class__", "9**9**9", "x\x00", "lambda: x"])
def test_refused_on_every_other_way_in(text, capsys):
    start = hdsgd.Overlaps([[1.0]], [[0.1]], [[1.0]])
    for way in (
        lambda: hdsgd.Activation(text),
        lambda: hdsgd.Problem(text),
        lambda: hdsgd.Problem("erf", teacher_activation=text),
        lambda: hdsgd.generate(text),
        lambda: hdsgd.generate("x", text),
        lambda: hdsgd.integral("I2", text, [[1.0, 0.0], [0.0, 1.0]]),
        lambda: hdsgd.solve_ode(hdsgd.Problem(text), start, 0.1),
    ):
        with watch() as seen, pytest.raises(ValueError) as caught:
            way()
        assert allowed(seen) == []
        assert len(str(caught.value).splitlines()) == 1
    for command in (
        ["generate", text],
        ["generate", "x", "--teacher", text],
        ["solve", "--activation", text, "-d", "9"],
    ):
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


TEXTS = st.one_of(
    st.lists(TOKENS, max_size=25).map("".join),
    st.lists(TOKENS, max_size=25).map(" ".join),
    st.text(max_size=80),
    st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    st.sampled_from(HOSTILE).flatmap(lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut][:900])),
    st.tuples(st.sampled_from(HOSTILE), st.sampled_from(HOSTILE)).map(
        lambda both: f"({both[0][:300]}) + {both[1][:300]}"
    ),
)


@given(TEXTS)
@example("x" * (MAX_LENGTH + 1))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_formula_or_one_line(text):
    with watch() as seen:
        try:
            found = hdsgd.Activation(text)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert hdsgd.Activation(found.formula) == found  # it can be saved and read again
            assert len(found.formula) <= MAX_LENGTH
    assert allowed(seen) == []


@given(st.lists(TOKENS, min_size=1, max_size=12).map("".join))
@settings(max_examples=200, deadline=None)
def test_what_is_read_becomes_a_bounded_expression(text):
    try:
        formula = hdsgd.Activation(text).formula
        expression = to_sympy(formula)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert {symbol.name for symbol in expression.free_symbols} <= {"x"}
        assert expression.count_ops() < 3000


@pytest.mark.parametrize(
    "text",
    [
        "x",
        " x ",
        "x\n",
        "(" * 150 + "x" + ")" * 150,
        "0.12345678901234567890123456*x",
        "x**12",
        "x^2",
        "+x",
        "-(-x)",
        "((((x))))",
        "1e6*x",
        "0.000001*x",
        "he12(x)",
        "max(x, 0)",
        "relu(x)/3 - erf(2*x)**2 + x**3*exp(-x**2/2)",
        "leaky_relu(x, 0.1)",
        "sqrt(2)*x",
        "min(x, -x)",
        "exp(1)*x",
        "erf(x) + 0.1*x",
        "x*erf(x/sqrt(2))/2 + x/2",
        "sin(x)*cos(2*x)",
        "exp(-x^2/2)",
        "cos(x)",
    ],
)
def test_formulas_are_still_read(text):
    assert hdsgd.activation(text).formula
