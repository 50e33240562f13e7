"""S-expressions: found in a stream, and read as Scheme means them."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildvm_nb.errors import HostError, StateError, UsageError
from buildvm_nb.guix.host import GuixHost, Introduction
from buildvm_nb.guix.machinefile import MachineFile
from buildvm_nb.guix.sexp import (
    OffloadMachine,
    Quoted,
    Reader,
    Symbol,
    acl_of,
    authorize,
    listed_machines,
    read_all,
    read_forms,
    read_signing_key,
    revoke,
    with_machine,
    without_machine,
    write_form,
)
from buildvm_nb.service import Places
from buildvm_nb.service.guixdaemon import introduction, signing_key_file
from buildvm_nb.service.places import machine_keys

TEXTS = st.text(st.characters(exclude_categories=["C"]), max_size=20)
FORMS = st.recursive(
    TEXTS | st.integers(-(10**9), 10**9) | st.sampled_from([Symbol("secrets"), Symbol("version")]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(FORMS), st.binary(max_size=20), st.integers(1, 7))
def test_the_end_of_a_form_is_found_whatever_the_pieces_and_what_follows(form, rest, size):
    text = write_form(form).encode()
    stream, reader = text + rest, Reader(most=1)
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size].decode("latin-1"))
    assert reader.places == [(0, len(text))]
    assert read_forms(text.decode()) == [form]


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ('(a ")" "\\")") ; )', [[Symbol("a"), ")", '")']]),
        ("(a #| ( |# b)", [[Symbol("a"), Symbol("b")]]),
        ('(a "#| ; ")', [[Symbol("a"), "#| ; "]]),
        ("(#t #f)", [[True, False]]),
        (
            "'a `(,b #:c)",
            [Quoted(Symbol("a")), Quoted([Quoted(Symbol("b"), ","), Symbol("#:c")], "`")],
        ),
        ("#~(a #$b)", [Quoted([Symbol("a"), Quoted(Symbol("b"), "#$")], "#~")]),
        ("(1 -2 1.5 . [x])", [[1, -2, 1.5, Symbol("."), [Symbol("x")]]]),
        ("t nil", [Symbol("t"), Symbol("nil")]),
        ('(#\\( #\\" b)', [[Symbol("#\\("), Symbol('#\\"'), Symbol("b")]]),
        ('"' + "(" * 300 + '"', ["(" * 300]),
    ],
)
def test_texts_comments_and_characters_are_no_parentheses(text, forms):
    assert read_forms(text) == forms


@pytest.mark.parametrize("text", ["(", ")", "(]", "'", "(')", "#| a", '"', "(a))", '("a)', '("\\'])
def test_what_does_not_match_is_refused(text):
    with pytest.raises(UsageError, match="do not match"):
        read_forms(text)


def test_each_expression_knows_where_it_was():
    text = "; a list\n(a (b) '(c))  'd "
    reader = read_all(text)
    assert [text[start:end] for start, end in reader.places] == ["(a (b) '(c))", "'d"]
    inner = reader.forms[0][1]
    assert text[inner.start : inner.end] == "(b)"


def test_what_does_not_match_is_told_with_its_line():
    with pytest.raises(UsageError, match="line 3"):
        read_forms("(a)\n(b\n))")


def test_a_word_without_an_end_is_not_waited_for():
    reader = Reader(most=1)
    reader.feed('("' + "x" * 10_000)
    with pytest.raises(UsageError, match="more than 16384 characters"):
        reader.feed("x" * 10_000)


# What lets a host's Guix send builds to a machine, put in and taken out again.

MACHINE = OffloadMachine(
    port=11022,
    systems=("x86_64-linux",),
    user="offloading",
    host_key="ssh-ed25519 AAAA",
    private_key="/k",
)
OTHER = MACHINE.model_copy(update={"port": 11023})


def key(mark):
    return f"(public-key \n (ecc \n  (curve Ed25519)\n  (q #{mark * 32}#)\n  )\n )"


THEIRS = [
    "",
    "(list)\n",
    ";; nothing but a comment\n",
    ';; mine\n(define a "(")\n(list a)',
    "'()\n",
    '(use-modules (x))\n#| ( |#\n(list (build-machine (name "b")))  ; last ) one\n;; end\n',
    "(define machines #\\()\nmachines\n",
]


@pytest.mark.parametrize("theirs", THEIRS)
def test_what_the_user_wrote_is_kept_and_all_that_is_left_in_the_end(theirs):
    text = with_machine(theirs, "vm", MACHINE)
    kept = [line for line in text.splitlines() if "buildvm-nb" not in line]
    assert kept[: len(theirs.splitlines())] == theirs.splitlines()
    read_forms(text.replace("#\\(", "#\\a"))
    both = with_machine(text, "other", OTHER)
    assert listed_machines(both) == ["vm", "other"]
    assert without_machine(both, "other") == text
    assert without_machine(text, "vm").rstrip("\n") == theirs.rstrip("\n")


def test_a_list_that_an_older_version_wrote_is_read_and_renewed():
    old = with_machine("(list mine)\n", "vm", MACHINE)
    head = old[old.index("(let ((answers?") : old.index(";;; machine")]
    old = old.replace(head, "(list\n").replace("(if (answers? 11022)\n(list ", "")
    old = old.replace("\n(list))\n)))\n", "\n))\n").replace("#f)))", "#f))")
    assert old.count("(") == old.count(")")
    assert "answers?" not in old
    assert listed_machines(old) == ["vm"]
    assert without_machine(old, "vm") == "(list mine)\n"
    assert with_machine(old, "vm", MACHINE) == with_machine("(list mine)\n", "vm", MACHINE)


def test_a_machine_is_replaced_not_added_twice():
    text = with_machine(with_machine("(list)\n", "vm", MACHINE), "vm", OTHER)
    assert listed_machines(text) == ["vm"]
    assert "11023" in text
    assert "11022" not in text


def test_what_the_user_adds_between_and_after_our_marks_is_kept():
    text = with_machine("(list one)\n", "vm", MACHINE)
    edited = text.replace("(list one)", "(list one two)") + "(list three)\n"
    again = with_machine(edited, "vm", OTHER)
    assert without_machine(again, "vm") == "(list one two)\n(list three)\n"


@pytest.mark.parametrize("line", [";;; buildvm-nb: end\n", "(append ; buildvm-nb"])
def test_damaged_marks_are_told_and_not_guessed(line):
    text = with_machine("(list one)\n", "vm", MACHINE).replace(line, "")
    with pytest.raises(UsageError, match="marks of buildvm-nb"):
        with_machine(text, "vm", MACHINE)


@pytest.mark.parametrize("theirs", ["(list", "(list))", '(list "', "#;(list) (list)"])
def test_what_cannot_be_read_is_let_alone(theirs):
    with pytest.raises(UsageError):
        with_machine(theirs, "vm", MACHINE)


def test_keys_are_added_once_and_taken_out_without_touching_others():
    acl = acl_of(key("AA"))
    both = authorize(acl, key("BB"))
    assert authorize(both, key("bb").upper().replace("PUBLIC-KEY", "public-key")) == both
    assert "#" + "AA" * 32 in revoke(both, key("BB"))
    assert read_forms(revoke(both, key("BB")).replace("#", "")) == read_forms(acl.replace("#", ""))
    assert revoke(acl, key("BB")) == acl


@pytest.mark.parametrize(
    "acl",
    [
        f"(acl\n (entry\n  {key('AA')}\n  (tag\n   (guix import)\n   )\n  )\n )\n",  # Debian's
        "(acl)",
        f"\n(acl (entry {key('AA')} (tag (guix import)))  )\n\n",
        "; mine\n(acl ; none\n)\n; the end",
    ],
)
def test_what_is_put_into_a_list_and_taken_out_leaves_no_trace(acl):
    both = authorize(acl, key("BB"))
    assert "#" + "BB" * 32 in both
    assert revoke(both, key("BB")) == acl


def test_an_entry_of_others_is_taken_out_without_what_surrounds_it():
    entry = f"(entry {key('BB')} (tag (guix import)))"
    assert revoke(f"(acl ; mine\n {entry})", key("BB")) == "(acl ; mine\n)"
    assert revoke(f"(acl {entry} {entry})\n", key("BB")) == "(acl  )\n"


@pytest.mark.parametrize("acl", ["(list)", "(acl", "(acl) (acl)", "acl"])
def test_what_is_no_acl_is_refused(acl):
    with pytest.raises(UsageError, match="access-control list"):
        authorize(acl, key("AA"))


def test_a_signing_key_that_is_none_is_told(tmp_path):
    path = tmp_path / "signing-key.pub"
    with pytest.raises(HostError, match="no signing key") as caught:
        read_signing_key(path)
    assert "guix archive --generate-key" in caught.value.hint
    for text in ("(private-key (ecc (d #AA#)))", "(public-key (ecc", "ssh-ed25519 AAAA", "é"):
        path.write_text(text)
        with pytest.raises(UsageError, match="not a public key"):
            read_signing_key(path)


@pytest.fixture
def settings(tmp_path):
    """Settings of a Guix that has a key of its own and a list of machines."""
    directory = tmp_path / "guix"
    directory.mkdir()
    (directory / "signing-key.pub").write_text(key("CC"))
    (directory / "signing-key.sec").write_text("secret")
    (directory / "machines.scm").write_text("(list mine)\n")
    return directory


KNOWN = Introduction(name="vm", machine=MACHINE, signing_key=key("DD"), identity="PRIVATE\n")


def test_a_machine_is_introduced_and_forgotten(settings):
    host = GuixHost(settings)
    host.introduce(KNOWN)
    identity = host.key_file("vm")
    assert identity.read_text() == "PRIVATE\n"
    assert stat.S_IMODE(identity.stat().st_mode) == 0o400
    assert str(identity) in (settings / "machines.scm").read_text()
    acl = (settings / "acl").read_text()
    assert "CC" * 32 in acl  # as Guix itself does where there is no list yet
    assert "DD" * 32 in acl
    host.introduce(KNOWN)
    assert (settings / "acl").read_text() == acl
    host.forget("vm", key("DD"))
    assert (settings / "machines.scm").read_text() == "(list mine)\n"
    assert "DD" * 32 not in (settings / "acl").read_text()
    assert not identity.exists()
    assert host.forget("vm", key("DD")) == []
    assert not list(settings.rglob(".buildvm-*"))


def test_a_list_that_had_only_ours_is_gone_in_the_end(settings):
    (settings / "machines.scm").unlink()
    host = GuixHost(settings)
    host.introduce(KNOWN)
    host.forget("vm", "")
    assert not (settings / "machines.scm").exists()


def test_whoever_undoes_it_need_not_have_the_machines_state(settings):
    host = GuixHost(settings)
    before = (settings / "machines.scm").read_text()
    host.introduce(KNOWN)
    GuixHost(settings).forget("vm")
    assert "DD" * 32 not in (settings / "acl").read_text()
    assert (settings / "machines.scm").read_text() == before
    assert not list((settings / "offload").rglob("vm*"))


def test_a_key_that_is_not_known_any_more_is_told_and_nothing_changed(settings):
    host = GuixHost(settings)
    host.introduce(KNOWN)
    host._installed_key("vm").unlink()  # as an older version left it
    kept = {path: path.read_bytes() for path in settings.rglob("*") if path.is_file()}
    with pytest.raises(HostError, match=r"not known which key in .*acl is that of the machine vm"):
        host.forget("vm")
    assert {path: path.read_bytes() for path in settings.rglob("*") if path.is_file()} == kept
    host.forget("vm", key("DD"))
    assert "DD" * 32 not in (settings / "acl").read_text()


def test_a_machine_that_was_made_anew_replaces_its_old_key(settings):
    host = GuixHost(settings)
    host.introduce(KNOWN)
    host.introduce(KNOWN.model_copy(update={"signing_key": key("EE")}))
    acl = (settings / "acl").read_text()
    assert "DD" * 32 not in acl
    assert "EE" * 32 in acl


def test_nothing_is_written_where_a_file_is_not_understood(settings):
    (settings / "acl").write_text("(list)")
    before = {path: path.read_text() for path in settings.iterdir()}
    with pytest.raises(UsageError):
        GuixHost(settings).introduce(KNOWN)
    assert {path: path.read_text() for path in settings.iterdir()} == before


@pytest.mark.parametrize("file", ["machines.scm", "acl"])
def test_a_file_that_guix_system_makes_is_not_replaced(settings, tmp_path, file):
    (settings / file).unlink(missing_ok=True)
    (tmp_path / "store").write_text("(list)\n")
    (settings / file).symlink_to(tmp_path / "store")
    with pytest.raises(HostError, match="made by Guix System") as caught:
        GuixHost(settings).introduce(KNOWN)
    assert "guix-configuration" in caught.value.hint
    assert (settings / file).is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_whoever_may_not_write_there_is_told_to_be_root(settings):
    settings.chmod(0o555)
    with pytest.raises(HostError, match="cannot write") as caught:
        GuixHost(settings).introduce(KNOWN)
    assert "sudo" in caught.value.hint


@pytest.fixture
def places(tmp_path):
    return Places(files=tmp_path, states=tmp_path)


def test_what_a_machine_is_introduced_with_does_not_depend_on_its_date(places):
    place = places.state("vm")
    place.make()
    machine_keys(place, "vm")
    path = signing_key_file(place)
    path.parent.mkdir(parents=True)
    path.write_text(key("EE"))
    old = MachineFile(name="vm", offload=True, date="2011-01-01")
    new = MachineFile(name="vm", offload=True, date="2031-01-01")
    known = introduction(old, places=places, speed=2.5, parallel_builds=3)
    assert known == introduction(new, places=places, speed=2.5, parallel_builds=3)
    assert (known.machine.port, known.machine.speed) == (11022, 2.5)
    assert known.machine.parallel_builds == 3
    assert known.machine.host_key.startswith("ssh-ed25519 AAAA")
    assert known.identity.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")


def test_a_machine_that_cannot_be_built_in_is_not_introduced(places):
    with pytest.raises(StateError, match="its daemon is not there"):
        introduction(MachineFile(name="vm"), places=places)
    with pytest.raises(StateError, match="no port leads"):
        introduction(MachineFile(name="vm", offload=True, port_forwardings=()), places=places)
    with pytest.raises(StateError, match="no signing key yet") as caught:
        introduction(MachineFile(name="vm", offload=True), places=places)
    assert "buildvm machine start vm" in caught.value.hint
