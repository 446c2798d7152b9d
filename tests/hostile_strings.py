"""Texts that must not run: what the tests of hostile strings feed to every way in."""

import builtins
import keyword

from hypothesis import strategies as st

from hdsgd.derivations.parse import FUNCTIONS, FUNCTIONS_2

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

# what random texts are made of
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
