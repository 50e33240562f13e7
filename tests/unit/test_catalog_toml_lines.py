import json
import tomllib

from hypothesis import given, reject
from hypothesis import strategies as st

from buildvm_nb.catalog.toml_lines import key_lines


def test_positions_follow_every_way_to_write_toml():
    lines = key_lines(
        '# c\na.b."c d" = """x\n"" y""""\n\'q\' = [1, # ]\n [2, {z = 3, \'y.y\'.w=4}],\n]\n'
        '[[step]]\nn = 5\n[step.env]\n"\\u0041"="6"\n[[step]]\nn=7\n[[step.x]]\nm=8\n'
        "[[step.x]]\nm=9 # c\n[a.k]\nd = 2020-01-01 00:00:00Z # c\n"
    )

    assert lines["a", "b", "c d"] == 2
    assert lines["q",] == 4
    assert lines["q", 1, 1, "y.y", "w"] == 5
    assert lines["step", 0, "env", "A"] == 10
    assert lines["step", 1] == 11
    assert lines["step", 1, "x", 1, "m"] == 16
    assert lines["a", "k", "d"] == 18


KEYS = st.text(st.sampled_from("ab.\"'# é\\\n-"), min_size=1, max_size=4)
DOTS = st.sampled_from([".", " .", ". ", "\t.\t"])


class Writer:
    """Writes a tree of tables as TOML in a drawn style, with a mark of its own for each leaf."""

    def __init__(self, draw):
        self.draw = draw
        self.marks = {}

    def key(self, name):
        styles = [json.dumps(name, ensure_ascii=True)]
        if name.isascii() and name.replace("-", "").isalnum():
            styles.append(name)
        if "'" not in name and "\n" not in name:
            styles.append(f"'{name}'")
        return self.draw(st.sampled_from(styles))

    def leaf(self, path):
        mark = f"mark{len(self.marks)}x"
        self.marks[path] = mark
        return self.draw(
            st.sampled_from(
                [
                    f'"{mark}"',
                    f"'{mark}#]}}'",
                    f'"{mark}\\"\\\\"',
                    f'"""{mark}\n""\\"]\n""""',
                    f"'''{mark}\n[a]\n''''",
                ]
            )
        )

    def value(self, path, depth):
        shape = self.draw(st.sampled_from(["leaf", "leaf", "array", "inline"]))
        if shape == "array" and depth:
            gap = self.draw(st.sampled_from([" ", "\n", " # [ \n"]))
            members = [
                self.value((*path, index), depth - 1)
                for index in range(self.draw(st.integers(0, 3)))
            ]
            return "[" + gap + f"{gap},".join(members) + gap + "]"
        if shape == "inline" and depth:
            names = self.draw(st.lists(KEYS, unique=True, max_size=2))
            members = [
                f"{self.key(name)} = {self.value((*path, name), depth - 1)}" for name in names
            ]
            return "{" + ", ".join(members) + "}"
        return self.leaf(path)

    def pairs(self, path):
        out = ""
        for name in self.draw(st.lists(KEYS, unique=True, max_size=3)):
            dotted = self.draw(st.lists(KEYS, max_size=2))
            full = [name, *dotted]
            text = self.draw(DOTS).join(self.key(part) for part in full)
            out += self.draw(st.sampled_from(["", "\n", "# = [\n"]))
            out += f"{text} = {self.value((*path, *full), 2)}\n"
        return out

    def document(self):
        out = self.pairs(())
        for number in range(self.draw(st.integers(0, 3))):
            name = f"table{number}"
            if self.draw(st.booleans()):
                out += f"[{name}]\n{self.pairs((name,))}"
                continue
            for index in range(self.draw(st.integers(1, 3))):
                out += f"[[ {name} ]] # c\n{self.pairs((name, index))}"
                if self.draw(st.booleans()):
                    out += f"[{name}.sub]\n{self.pairs((name, index, 'sub'))}"
        return out


@given(st.data())
def test_the_line_of_every_value_is_found_whatever_the_style(data):
    writer = Writer(data.draw)
    text = writer.document()
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        reject()  # two of the drawn keys exclude each other
    lines = key_lines(text)
    rows = text.split("\n")

    for path, mark in writer.marks.items():
        assert mark in rows[lines[path] - 1]
