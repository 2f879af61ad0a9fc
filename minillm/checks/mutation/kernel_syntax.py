"""The statements and expressions of CUDA functions, as a tree over the source text.

It knows as much of C++ as kernels use: declarations, control flow, and all operators with their
precedence. A statement that it cannot read is left out, and the one behind it is read again. What
must be a constant for the compiler (array sizes, template arguments, case labels, constexpr, const
integers) is left out on purpose.

    kind of a node      op                  parts
    name, literal       the text
    unary, postfix      the operator        operand
    binary, assign      the operator        left, right
    ternary                                 condition, then, else
    call                                    function, arguments ...
    index                                   array, subscripts ...
    member              the name            object
    cast                the type            operand
    paren                                   inside
    list                                    the parts of { ... }
    condition           if, while, for, ?   the expression
    step                                    what a `for` does after each turn
    statement           expression, return, the expression, where it has one
                        continue, break
    block                                   statements, of any kind: the order is that of the text
"""

from __future__ import annotations

from minillm.checks.mutation.kernel_expressions import Expressions, Node
from minillm.checks.mutation.kernel_tokens import INTEGERS, KEYWORDS, QUALIFIERS, SKIPPED, Unreadable


def body_of(plain: str, start: int, end: int) -> tuple[Node, int]:
    """The block plain[start:end], braces included, and how many statements could not be read.

    plain: a source as `masked` returns it.
    """
    parser = Statements(plain, start, end)
    return parser.block(), parser.left_out


class Statements(Expressions):
    """Reads statements into nodes; `left_out` counts those that it cannot read."""

    def block(self) -> Node:
        start, parts = self.start, []
        self.take("{")
        while self.text() not in ("}", ""):
            parts += self.readable_statement()
        self.takes("}")
        return Node("block", start, self.ended, "", parts)

    def readable_statement(self) -> list[Node]:
        before = self.at
        try:
            return self.statement()
        except Unreadable:
            self.at = before
            self.left_out += 1
            self.skip_statement()
            if self.at == before:
                self.at += 1
            return []

    def statement(self) -> list[Node]:
        start, word = self.start, self.text()
        if word == "{":
            return [self.block()]
        if word == ";":
            self.at += 1
            return []
        if word in SKIPPED:
            self.skip_statement()
            return []
        if word in KEYWORDS:
            return self.control(word)
        if self.kind() == "word" and self.text(1) == ":" and self.text(2) != ":":  # a label
            self.at += 2
            return self.statement()
        if self.is_declaration():
            parts = self.declaration()
            self.take(";")
            return parts
        expression = self.comma()
        self.take(";")
        return [Node("statement", start, self.ended, "expression", [expression])]

    def control(self, word: str) -> list[Node]:
        start = self.start
        self.take()
        if word in ("break", "continue"):
            self.take(";")
            return [Node("statement", start, self.ended, word)]
        if word == "return":
            value = [] if self.text() == ";" else [self.braces() if self.text() == "{" else self.comma()]
            self.take(";")
            return [Node("statement", start, self.ended, "return", value)]
        if word in ("case", "default"):
            while not self.takes(":"):
                self.at += 1
            return []
        if word == "else":
            raise Unreadable(word)
        if word == "do":
            parts = self.statement()
            self.take("while")
            parts.append(self.condition("while"))
            self.take(";")
            return parts
        if word == "for":
            return self.for_loop()
        if self.takes("constexpr"):
            self.skip_brackets()
            parts = []
        else:
            parts = [self.condition(word)]
        parts += self.statement()
        if word == "if" and self.takes("else"):
            parts += self.statement()
        return parts

    def condition(self, word: str) -> Node:
        self.take("(")
        if self.is_declaration():
            raise Unreadable("a declaration as a condition")
        inside = self.comma()
        self.take(")")
        return Node("condition", inside.start, inside.end, word, [inside])

    def for_loop(self) -> list[Node]:
        self.take("(")
        parts = []
        if self.is_declaration():
            before = self.at
            self.skip_type()
            while self.text() in ("*", "&", "&&", "const"):
                self.at += 1
            if self.kind() == "word" and self.text(1) == ":":  # for (float& number : vector)
                self.at += 2
                self.comma()
                self.take(")")
                return self.statement()
            self.at = before
            parts += self.declaration()
        elif self.text() != ";":
            parts.append(self.comma())
        self.take(";")
        if self.text() != ";":
            inside = self.comma()
            parts.append(Node("condition", inside.start, inside.end, "for", [inside]))
        self.take(";")
        if self.text() != ")":
            inside = self.comma()
            parts.append(Node("step", inside.start, inside.end, "", [inside]))
        self.take(")")
        return parts + self.statement()

    # -------------------------------------------------------------------------------- declarations

    def is_declaration(self) -> bool:
        before = self.at
        try:
            if self.text() in QUALIFIERS:
                return True
            if self.kind() != "word":
                return False
            known = self.text() in self.types
            self.skip_type()
            if known and self.text() in ("(", "{"):  # float4(...) is an expression, float (&x)[4] = ... is none
                return self.text(1) in ("&", "*")
            marks = 0
            while self.text() in ("*", "&", "&&", "const", "__restrict__"):
                marks += 1
                self.at += 1
            if self.kind() != "word" or self.text() in KEYWORDS:
                return False
            follows = self.text(1)
            return follows in ("=", ";", ",", "[", "{", ":") or (follows == "(" and (not marks or known))
        except Unreadable:
            return False
        finally:
            self.at = before

    def skip_type(self) -> set[str]:
        """Skip a type without its * and &. Returns its words."""
        words = set()
        sized = {"unsigned", "signed"}
        while self.text() in QUALIFIERS or (self.text() in ("long", "int", "short", "char") and words & sized):
            words.add(self.take())
            if self.text() == "(" and words & {"alignas", "__align__"}:
                self.skip_brackets()
        if not words & sized or self.text() in self.types:
            if self.kind() != "word":
                raise Unreadable("no type")
            while True:
                words.add(self.take())
                if self.text(-1) in self.templates or self.text(-1) not in self.types:
                    self.template_arguments()
                if not self.takes("::"):
                    break
        while self.text() in QUALIFIERS or self.text() in ("long", "int", "short", "char"):
            words.add(self.take())
        return words

    def declaration(self) -> list[Node]:
        """Up to its semicolon: the initialisers."""
        words, parts = self.skip_type(), []
        while True:
            pointer = False
            while self.text() in ("*", "&", "&&", "const", "__restrict__"):
                pointer |= self.take() in ("*", "&")
            if self.text() == "(":  # float (&x)[4]
                self.skip_brackets()
                pointer = True
            elif self.kind() == "word":
                self.take()
            else:
                raise Unreadable("no name")
            while self.text() == "[":
                self.skip_brackets()
            constant = words & {"constexpr", "static", "extern", "__shared__"}
            constant |= {"const"} if "const" in words and words & INTEGERS and not pointer else set()
            found = self.initialiser()
            parts += [] if constant else found
            if not self.takes(","):
                return parts

    def initialiser(self) -> list[Node]:
        if self.takes("="):
            return [self.braces() if self.text() == "{" else self.assignment()]
        if self.text() == "{":
            return [self.braces()]
        if self.text() == "(":
            return self.arguments("(", ")")
        if self.text() == ":":
            raise Unreadable("a bit field")
        return []

    def braces(self) -> Node:
        start, parts = self.start, self.arguments("{", "}")
        return Node("list", start, self.ended, "", parts)
