"""Machines taken over from Guix: configurations and command lines in, TOML out and in again."""

import re

import pytest

from buildvm_nb.cli.entry import main
from buildvm_nb.errors import UsageError
from buildvm_nb.guix.importing import (
    import_command_line,
    import_configuration,
    without_secrets_port,
)
from buildvm_nb.guix.machinefile import load_machine_file, parse_machine_file, write_machine_file
from buildvm_nb.model.instants import format_instant

CONFIGURATION = """\
;; an operating system, (virtual-build-machine (name 'not-this-one))
(use-modules (gnu) (srfi srfi-19))
#| nor (virtual-build-machine
        (name 'this-one)) |#
(operating-system
  (host-name "host")
  (keyboard-layout (keyboard-layout "us" #:options '("ctrl:nocaps")))
  (services (cons* (service virtual-build-machine-service-type
                            (virtual-build-machine
                             (name 'january-2018)
                             (cpu "Skylake-Client")
                             (cpu-count 2)
                             (memory-size (QUOTED))
                             (date (make-date 0 0 30 12 1 1 2018 0))
                             (port-forwardings '((11023 . 22) (11044 . 1004) (18080 . 80)))
                             (systems '("x86_64-linux" "i686-linux"))
                             (auto-start? #t)))
                   (modify-services %base-services
                     (guix-service-type config => #~(string-append "a;b" #$config))))))
""".replace("(QUOTED)", "3072")


def machine_of(imported):
    return parse_machine_file(write_machine_file(imported.fields), "test", name="test")


def test_each_literal_value_of_a_configuration_is_taken_over():
    imported = without_secrets_port(import_configuration(CONFIGURATION, file="config.scm"))
    machine = machine_of(imported)
    assert machine.name == "january-2018"
    assert machine.cpu == "Skylake-Client"
    assert machine.cpu_count == 2
    assert machine.memory_mib == 3072
    assert format_instant(machine.date) == "2018-01-01T12:30:00Z"
    assert [(one.host, one.guest) for one in machine.port_forwardings] == [(11023, 22), (18080, 80)]
    assert machine.systems == ("x86_64-linux", "i686-linux")
    assert machine.auto_start
    assert "secret service is not forwarded" in imported.notes[0]


def test_what_a_configuration_leaves_out_has_guixs_defaults():
    for text in (
        "(service virtual-build-machine-service-type)",
        "(service virtual-build-machine-service-type (virtual-build-machine))",
    ):
        machine = machine_of(import_configuration(text, file="config.scm"))
        assert machine.name == "build-vm"
        assert (machine.cpu_count, machine.memory_mib) == (4, 2048)
        assert format_instant(machine.date) == "2020-01-01T00:00:00Z"
        assert machine.cpu == "Cascadelake-Server"  # current at that date
        assert [(one.host, one.guest) for one in machine.port_forwardings] == [(11022, 22)]
        assert not machine.auto_start


def configured(field):
    return f"(virtual-build-machine {field})"


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("(name (string->symbol x))", "name is no literal value: (string->symbol x)"),
        ('(name "build-vm")', 'name is no literal value: "build-vm"'),
        ("(cpu my-cpu)", "cpu is no literal value: my-cpu"),
        ("(cpu-count (total-processor-count))", "(total-processor-count)"),
        ("(memory-size (* 4 gib))", "memory-size is no literal value: (* 4 gib)"),
        ("(memory-size (quotient 4 0))", "(quotient 4 0)"),
        ("(memory-size (expt 10 1000000000))", "(expt 10 1000000000)"),
        ("(memory-size (launch-missiles 1))", "(launch-missiles 1)"),
        ("(date (current-date))", "date is no literal value: (current-date)"),
        ("(date (make-date 0 0 0 0 31 2 2020 0))", "(make-date 0 0 0 0 31 2 2020 0)"),
        ("(date (make-date 0 0 0))", "(make-date 0 0 0)"),
        ("(date (make-date 1 0 0 0 1 1 2020 0))", "(make-date 1 "),
        ("(date (make-date 0 0 0 0 1 1 year 0))", "year"),
        ('(date (string->date "soon" "~Y-~m-~d"))', '"soon"'),
        ("(port-forwardings `((,%port . 22)))", "((,%port"),
        ("(port-forwardings (list (cons port 22)))", "(list (cons port 22))"),
        ("(port-forwardings '((11022 22)))", "((11022 22))"),
        ("(systems (list (%current-system)))", "(list (%current-system))"),
        ("(systems %systems)", "%systems"),
        ("(auto-start? on-tuesdays?)", "on-tuesdays?"),
        ("(inherit other)", "(inherit other)"),
        ("(memory 4)", "(memory 4)"),
        ("()", "()"),
    ],
)
def test_a_computed_value_is_an_error_that_names_the_expression(field, named):
    with pytest.raises(UsageError, match=re.escape(named)) as caught:
        import_configuration(configured(field), file="config.scm")
    assert caught.value.hint


MANUAL = """\
;; in the manual of Guix, "Virtualization Services"
(service virtual-build-machine-service-type
         (virtual-build-machine
           (cpu "Westmere")
           (cpu-count 8)
           (memory-size (* 1 1024))
           (auto-start? #t)))
"""


def test_the_example_of_guixs_manual_is_read():
    imported = import_configuration(MANUAL, file="config.scm")
    assert imported.fields == {
        "cpu": "Westmere", "cpu_count": 8, "memory_mib": 1024, "auto_start": True,
    }  # fmt: skip
    assert imported.notes == ()


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("(memory-size (* 2 (expt 2 10)))", "memory_mib", 2048),
        ("(memory-size (- (+ 1000 1048) 0))", "memory_mib", 2048),
        ("(memory-size (quotient 4097 2))", "memory_mib", 2048),
        ("(name (quote vm))", "name", "vm"),
        ("(port-forwardings `((11022 . 22)))", "port_forwardings", [{"host": 11022, "guest": 22}]),
        (
            "(port-forwardings (list '(11022 . 22)))",
            "port_forwardings",
            [{"host": 11022, "guest": 22}],
        ),
        (
            "(port-forwardings (list (cons 11022 22)))",
            "port_forwardings",
            [{"host": 11022, "guest": 22}],
        ),
        ('(systems `("i686-linux"))', "systems", ("i686-linux",)),
        ('(systems (list "i686-linux"))', "systems", ("i686-linux",)),
    ],
)
def test_what_is_constant_is_computed(field, name, value):
    assert import_configuration(configured(field), file="config.scm").fields[name] == value


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("", "here Cascadelake-Server, in Guix Skylake-Client"),
        ("(date (make-date 0 0 0 0 1 6 2010 0))", "here Westmere, in Guix Nehalem"),
        ("(date (make-date 0 0 0 0 1 6 2000 0))", "in Guix none before 2006"),
        ("(date (make-date 0 0 0 0 1 6 2011 0))", ""),
        ('(cpu "Haswell")', ""),
    ],
)
def test_a_cpu_that_would_be_another_one_in_guix_is_told(field, told):
    notes = import_configuration(configured(field), file="config.scm").notes
    assert [told in note for note in notes] == ([True] if told else [])


def test_what_of_a_command_line_is_dropped_is_told():
    line = "qemu-system-x86_64 -kernel bzImage -drive file=a.qcow2,if=virtio -m 512 -nographic"
    assert [note.partition(";")[0] for note in import_command_line(line).notes] == [
        "not taken over: -kernel bzImage",
        "not taken over: -drive file=a.qcow2,if=virtio",
    ]


@pytest.mark.parametrize(
    ("form", "date"),
    [
        ("(make-date 0 0 0 0 1 1 2020 0)", "2020-01-01T00:00:00Z"),
        ("(make-date 0 5 4 3 2 1 2020 3600)", "2020-01-02T02:04:05Z"),
        ('(string->date "2016-02-29" "~Y-~m-~d")', "2016-02-29T00:00:00Z"),
    ],
)
def test_dates_are_read_with_their_zone(form, date):
    imported = import_configuration(configured(f"(date {form})"), file="config.scm")
    assert format_instant(machine_of(imported).date) == date
    assert any("without its zone" in note for note in imported.notes) == ("3600" in form)


def test_what_cannot_be_taken_over_is_told():
    text = configured('(image (image (inherit x))) (qemu qemu-minimal) (cpu "Haswell")')
    imported = import_configuration(text, file="config.scm")
    assert imported.fields == {"cpu": "Haswell"}
    assert [note.partition(";")[0] for note in imported.notes] == [
        "not taken over: (image (image (inherit x)))",
        "not taken over: (qemu qemu-minimal)",
    ]


def test_one_of_several_machines_is_chosen_by_its_name():
    text = "(list (virtual-build-machine (name 'a)) (virtual-build-machine (cpu-count 3)))"
    assert import_configuration(text, file="f", name="build-vm").fields == {"cpu_count": 3}
    with pytest.raises(UsageError, match="2 machines fit; there are a, build-vm"):
        import_configuration(text, file="f")
    with pytest.raises(UsageError, match="0 machines fit"):
        import_configuration(text, file="f", name="b")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no virtual-build-machine"),
        ("(operating-system)", "no virtual-build-machine"),
        ("(virtual-build-machine", "parentheses or quotes do not match"),
        ("(virtual-build-machine))", "parentheses or quotes do not match"),
        ('(virtual-build-machine (cpu "x))', "parentheses or quotes do not match"),
        ("(virtual-build-machine #;(cpu 1) (cpu 2))", "comment #;"),
        ("(" * 100_000, "more than 200 parentheses deep"),
        ("(" * 201 + ")" * 201, "more than 200 parentheses deep"),
    ],
)
def test_what_is_no_configuration_is_refused(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        import_configuration(text, file="config.scm")


GUIX_COMMAND = (
    "/gnu/store/x-qemu-minimal/bin/qemu-system-x86_64 -enable-kvm -cpu Haswell -smp cpus=4 "
    "-nic user,model=virtio-net-pci,hostfwd=tcp::11022-:22,hostfwd=tcp::11044-:1004 "
    "-kernel /gnu/store/y/bzImage -append 'root=/dev/vda1 console=ttyS0' -serial stdio "
    "-m 2048 -rtc base=2014-05-01T00:00:00 -snapshot -no-reboot"
)


def test_the_command_line_of_guixs_service_is_read():
    imported = without_secrets_port(import_command_line(GUIX_COMMAND))
    machine = machine_of(imported)
    assert (machine.cpu, machine.cpu_count, machine.memory_mib) == ("Haswell", 4, 2048)
    assert format_instant(machine.date) == "2014-05-01T00:00:00Z"
    assert [(one.host, one.guest) for one in machine.port_forwardings] == [(11022, 22)]
    assert machine.accelerator == "kvm"
    assert "port 11022 was open on every address of the host" in imported.notes[0]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ("-cpu Haswell,-avx2", {"cpu": "Haswell,-avx2"}),
        ("", {"cpu": "qemu64", "cpu_count": 1}),
        ("-smp 8", {"cpu_count": 8}),
        ("-smp sockets=1,cpus=2", {"cpu_count": 2}),
        ("-m 4G", {"memory_mib": 4096}),
        ("-m size=512M,slots=2", {"memory_mib": 512}),
        ("-name guest=old,debug-threads=on", {"name": "old"}),
        ("-machine q35,accel=tcg", {"accelerator": "tcg"}),
        (
            "-netdev user,id=n,hostfwd=tcp:127.0.0.1:1-:22",
            {"port_forwardings": [{"host": 1, "guest": 22}]},
        ),
    ],
)
def test_options_of_qemu_are_read(options, fields):
    found = import_command_line(f"env X=1 qemu-system-x86_64 {options}").fields
    assert {key: found[key] for key in fields} == fields


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("sleep 1", "not a QEMU command line"),
        ("qemu-system-x86_64 -m many", "-m is not understood"),
        ("qemu-system-x86_64 -smp all", "-smp is not understood"),
        ("qemu-system-x86_64 -rtc base=soon", "-rtc is not understood"),
        ("qemu-system-x86_64 'open", "not a command line"),
    ],
)
def test_what_is_no_command_line_of_qemu_is_refused(line, complaint):
    with pytest.raises(UsageError, match=complaint):
        import_command_line(line)


def test_import_writes_a_machine_file_and_tells_the_rest(tmp_path, capsys):
    (tmp_path / "config.scm").write_text(CONFIGURATION)
    target = tmp_path / "vm.toml"
    assert main(["guix", "import", str(tmp_path / "config.scm"), "-o", str(target)]) == 0
    assert "secret service is not forwarded" in capsys.readouterr().err
    assert 'name = "january-2018"' in target.read_text()
    assert main(["guix", "import", str(tmp_path / "config.scm"), "-o", str(target)]) == 2
    assert main(["guix", "import", GUIX_COMMAND, "--secrets-port", "--name", "mine"]) == 0
    shown = capsys.readouterr().out
    assert 'name = "mine"' in shown
    assert "guest = 1004" in shown
    assert main(["guix", "import", str(tmp_path)]) == 2
    assert main(["guix", "import", "999999999"]) == 2
    assert "no such process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cpu_count = 0", "vm.toml:1: cpu_count: "),
        ('\n\nmemory = "2G"', "vm.toml:3: memory: no such field"),
        ("cpu_count = ", "not valid TOML"),
        ('date = "soon"', "vm.toml:1: date: not a date"),
        ("port_forwardings = [{host = 1, guest = 22},\n {host = 0, guest = 2}]", "vm.toml:2: port"),
        ("port_forwardings = [{host = 1, guest = 22}, {host = 1, guest = 2}]", "two places"),
        ('systems = ["armhf-linux"]', "unknown systems"),
        ('name = "../x"', "vm.toml:1: name"),
        ("qemu = ''", "qemu"),
    ],
)
def test_a_machine_file_that_is_wrong_is_refused_with_its_line(text, complaint):
    with pytest.raises(UsageError, match=re.escape(complaint)):
        parse_machine_file(text, "vm.toml", name="vm")


def test_the_secrets_of_a_machine_are_relative_to_its_file(tmp_path):
    (tmp_path / "vm.toml").write_text('secrets = "secrets"')
    assert load_machine_file(tmp_path / "vm.toml").secrets == f"{tmp_path}/secrets"


def test_a_machine_without_a_name_is_named_after_its_file():
    assert parse_machine_file("", "vm.toml", name="vm").name == "vm"
