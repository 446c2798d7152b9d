"""No text runs code, whatever it says: it is refused in one line, on every way in."""

import builtins
import keyword
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hdsgd
from hdsgd.cli import main
from hdsgd.derivations.parse import FUNCTIONS, FUNCTIONS_2, MAX_LENGTH, to_sympy

SENTINEL = "hostile-string-was-here"

ATTRIBUTES = """
x.__class__
x.__class__.__mro__[1].__subclasses__()
().__class__.__bases__[0].__subclasses__()
''.__class__.__mro__
x.__dict__
x.diff(x)
x.subs(x, 1)
x.func
x.evalf()
x.free_symbols
erf.__globals__
erf.__code__.co_consts
erf(x).args
(x).real
1 .real
1.0.hex()
x.__init__.__globals__['__builtins__']
{}.__class__.__base__
[].__class__
x._x
pi.__doc__
""".strip().splitlines()

CALLS = """
__import__('os').system('touch hostile-string-was-here')
__import__('os').popen('touch hostile-string-was-here').read()
__import__('subprocess').call(['touch', 'hostile-string-was-here'])
open('hostile-string-was-here', 'w')
open('hostile-string-was-here', 'w').write('x')
exec("open('hostile-string-was-here', 'w')")
eval("open('hostile-string-was-here', 'w')")
compile('x', 'x', 'eval')
getattr(x, 'diff')
getattr(getattr(x, '__class__'), '__mro__')
setattr(x, 'a', 1)
delattr(x, 'a')
globals()
locals()
vars(x)
dir(x)
type(x)
type('A', (), {})()
breakpoint()
exit()
quit()
input()
print(x)
help(x)
memoryview(x)
super().x
object()
sympify('x')
parse_expr('x')
lambdify(x, x)
Symbol('y')
Function('f')(x)
Lambda(x, x)
Integral(x, x)
Rational(1, 2)
solve(x)
sympy.sqrt(2)
numpy.exp(x)
np.exp(x)
os.system('true')
sys.exit()
math.erf(x)
erf(__import__('os'))
erf(x)(x)
erf()(x)
(erf)(x)(x)
x(x)
pi(x)
2(x)
erf(*x)
erf(**x)
erf(*[x])
erf(x=1)
erf(x, x=1)
erf(x, x)
erf()
max(x)
max(x, 1, 2)
max()
leaky_relu(x)
leaky_relu(x, x)
leaky_relu(x, 0.1, 0.2)
relu(x, 1)
he(x)
he-1(x)
he99(x)
he100(x)
he1.5(x)
he3(x, x)
he3(he3(he3(x)))
Erf(x)
ERF(x)
erf_(x)
""".strip().splitlines()

SYNTAX = """
lambda: x
lambda x: x
(lambda: x)()
(lambda f: f(f))(lambda f: f(f))
[x for x in (1,)]
{x for x in (1,)}
{x: x for x in (1,)}
(x for x in (1,))
[x]
(x,)
x, x
{x}
{x: x}
{}
[]
()
x[0]
x[0:1]
x[...]
x[x]
x if x else 1
x := 2
(x := 2)
(y := x) + y
x; x
x = 1
x += 1
x == x
x != 0
x < 1
x <= 1 <= x
x is x
x in x
not x
x and x
x or x
~x
x // 2
x % 2
x @ x
x << 2
x >> 2
x | x
x & 1
yield x
(yield)
await x
async def f(): x
def f(): x
class A: x
import os
from os import system
del x
pass
return x
raise x
assert x
global x
with x: x
while True: x
for x in x: x
try: x
@x
print x
x!
x?
$x
`x`
#x
# comment
\\x
x\\
x**
*x
**x
x***x
x x
2x
x2
x y
)x(
((x)
x)
(
)
...
None
True
False
NotImplemented
Ellipsis
__debug__
__name__
__builtins__
__import__
_
__
f'{x}'
f'{__import__("os").system("true")}'
f"{x!r:>{1000000}}"
'x'
"x"
'''x'''
b'x'
u'x'
r'x'
'%s' % x
'{0.__class__}'.format(x)
'x' * 999999999
"a" "b"
1j*x
1jx
j*x
I*x
i*x
E**x
oo
inf*x
nan*x
zoo
""".strip("\n").splitlines()

NUMBERS = """
9**9**9
9**9**9**9
2**x
x**x
x**x**x
x**-1
x**0.5
x**(1/2)
x**1000
x**13
x**99999999999999999999
(x**12)**2
((x**12)**12)**12
((9**12)**12)**12
(((2**12)**12)**12)**12
999999999999999999999*x
1e999
-1e999*x
1e400*x
1e7*x
0.0000001*x
0b2
0o9
007*x
1__0*x
1/x
1/(x - x)/x
x/erf(x)
sqrt(x)
sqrt(x**2)
(x + erf(x) + erf(2*x) + erf(3*x) + exp(-x**2))**12
(x+1)**12*(x+1)**12
(erf(x) + erf(2*x))**12*(sin(x) + cos(x))**12
he12(he12(x))
y
y**2
z*x
X
unknown
unknown(x)
""".strip().splitlines()

LARGE = [
    "",
    " ",
    "\n",
    "\t",
    "x\n",
    "x\nx",
    "x\r\nimport os",
    "x\x00",
    "\x00",
    "x\x00__import__('os')",
    "x\x1b[31m",
    "x\x7f",
    "\ufeffx",
    "x\u2028x",
    "ｅｒｆ(x)",
    "ｘ**2",
    "х**2",  # a Cyrillic letter
    "𝐱**2",
    "x²",
    "π*x",
    "√x",
    "x×x",
    "x−1",
    "еrf(x)",
    "x\u200b**2",
    "é",
    "☃(x)",
    "\ud800",
    "x" * 500,
    "x+" * 250 + "x",
    "(" * 150 + "x",
    "-" * 200 + "x",
    "--" * 45 + "x",
    "erf(" * 60 + "x" + ")" * 60,
    "+".join(f"erf({n}*x)" for n in range(1, 60)),
    "*".join("x" for _ in range(100)),
    "9" * 300,
    "1e" + "9" * 300,
    "'" * 300,
    "[" * 300,
    "{" * 300 + "}" * 90,
    "lambda:" * 50 + "x",
    "not " * 99 + "x",
    "x if " * 60 + "x",
    "x " * 150_000,
    "(" * 100_000,
    "9" * 1_000_000,
    "a" * 1_000_000,
]

BUILTINS = [f"{name}(x)" for name in dir(builtins) if name not in (*FUNCTIONS, *FUNCTIONS_2)]
WORDS = [f"{word} x" for word in keyword.kwlist]
HOSTILE = list(dict.fromkeys([*ATTRIBUTES, *CALLS, *SYNTAX, *NUMBERS, *LARGE, *BUILTINS, *WORDS]))
HOSTILE.remove("x\n")  # a formula all the same

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


TOKENS = st.sampled_from(
    [
        "x",
        "pi",
        "erf",
        "exp",
        "sin",
        "relu",
        "he3",
        "max",
        "sqrt",
        "sign",
        "(",
        ")",
        "(",
        ")",
        ",",
        ".",
        "+",
        "-",
        "*",
        "/",
        "**",
        "^",
        "2",
        "0.5",
        "12",
        "999999",
        "1e5",
        "__class__",
        "__import__",
        "lambda",
        ":",
        "=",
        ":=",
        "[",
        "]",
        "{",
        "}",
        "'",
        '"',
        "f'",
        "b'",
        "%",
        "@",
        "~",
        "if",
        "else",
        "for",
        "in",
        "not",
        "await",
        "os",
        "eval",
        "\\",
        "\n",
        "\x00",
        "#",
        ";",
        "!",
        "…",
        "ｘ",
        "1j",
        "0x",
        "_",
        "yield",
        "import",
        "\u2028",
        " ",
    ]
)
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
